"""common/ and reports/ are a house: each room imports only from rooms below it, no file is in a circle, no file is long."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the ground up. Several names on one floor may import each other; a room may import itself.
FLOORS = (
    ("common.errors", "common.files", "common.say", "common.surroundings"),
    ("common.papers",),
    ("common.environments",),
    ("common.learning",),
    ("common.evaluation",),
    ("common.runs",),
    (
        "common.workflow",
        "common.announce",
        "common.beginning",
        "common.configuration",
        "common.failures",
        "common.interruptions",
        "common.needs",
        "common.slurm",
        "common.summaries",
        "common.targets",
        "common.terminal",
    ),
    ("reports",),
)
LONGEST = 450  # lines


def module_of(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules(root: Path = ROOT) -> dict[str, Path]:
    files = [f for folder in ("common", "reports") for f in sorted((root / folder).rglob("*.py"))]
    return {module_of(f, root): f for f in files}


def imports(file: Path, known) -> dict[str, bool]:
    """The repository's modules that a file imports: name -> True where the import runs when the file is loaded."""
    found: dict[str, bool] = {}

    def visit(node: ast.AST, at_load: bool) -> None:
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            both = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name for name in both if name in known] or [node.module]
            if not all(name in known for name in both):
                names.append(node.module)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("common", "reports", "replications", "benchmarks", "tests"):
                found[name] = found.get(name, False) or at_load
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, at_load and not inside)

    visit(ast.parse(file.read_text(encoding="utf-8")), True)
    return found


def floor(module: str) -> int | None:
    for number, rooms in enumerate(FLOORS):
        if any(module == room or module.startswith(room + ".") for room in rooms):
            return number
    return None


def climbing(root: Path = ROOT) -> list[str]:
    """Each import that does not go down, in words."""
    known, wrong = modules(root), []
    for module, file in known.items():
        own = floor(module)
        for name in imports(file, known):
            if name == "common" or own is None:
                continue
            other = floor(name)
            if other is None or other > own:
                what = "which is outside of the house" if other is None else "which stands above it"
                wrong.append(f"{file.relative_to(root)} imports {name}, {what}")
    return wrong


def circles(root: Path = ROOT) -> list[str]:
    """Modules that, followed import by import, lead back to themselves; imports inside functions count too."""
    known = modules(root)
    edges = {m: {n for n in imports(f, known) if n in known and n != m} for m, f in known.items()}
    done: set[str] = set()
    found = []

    def follow(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for name in sorted(edges[module]):
                follow(name, [*path, module])
            done.add(module)

    for module in sorted(edges):
        follow(module, [])
    return found


def test_imports_go_down():
    assert not climbing()


def test_every_module_stands_on_a_floor():
    assert not [m for m in modules() if floor(m) is None and m != "common"]


def test_no_import_leads_back():
    assert not circles()


def test_no_file_is_long():
    lines = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in modules().values()}
    assert not {name: count for name, count in lines.items() if count > LONGEST}


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("common/learning/batch.py", "from common.runs.run import Run", "imports common.runs.run, which stands above it"),
        ("common/evaluation/statistics.py", "def f():\n    from common import workflow", "imports common.workflow"),
        ("common/papers/units.py", "import reports.charts", "imports reports.charts, which stands above it"),
        ("common/errors.py", "from replications.dqn.train import act", "which is outside of the house"),
    ],
)  # fmt: skip
def test_an_import_that_climbs_is_named(tmp_path, file, line, message):
    house(tmp_path, {file: line})
    (said,) = climbing(tmp_path)
    assert said.startswith(file)
    assert message in said


def test_a_circle_is_named(tmp_path):
    house(
        tmp_path,
        {"common/runs/a.py": "from common.runs import b", "common/runs/b.py": "import common.runs.a"},
    )
    assert circles(tmp_path) == ["common.runs.a -> common.runs.b -> common.runs.a"]
    assert not climbing(tmp_path)


def house(root: Path, more: dict[str, str]) -> None:
    files = ["common/__init__.py", "common/workflow.py", "common/runs/__init__.py", "common/runs/run.py", "reports/charts.py"]  # fmt: skip
    for name, text in (dict.fromkeys(files, "") | more).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
