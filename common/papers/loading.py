"""Loads and checks `replications/*/paper.yaml`, and names the targets. UserError with file, key and fix.

`docs/paper_yaml.md` describes the form.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError, suggestion
from common.papers import printed
from common.papers.checks import check_settings
from common.papers.constants import constants_by_kind
from common.papers.model import Budget, Paper, Protocol, Target, Task, Variant
from common.papers.settings import Resolved, resolve_loaded
from common.papers.tables import find_row
from common.papers.tasks import tasks_of, written_out
from common.papers.validation import load_yaml, validate
from common.say import say_aside

REPLICATIONS = Path(__file__).resolve().parents[2] / "replications"
NAME = re.compile(r"[a-z0-9_]+")

# --- loading ---


def folders(root: Path) -> list[str]:
    """Names of the folders that hold a paper.yaml, whatever their names are."""
    return sorted(path.parent.name for path in Path(root).glob("*/paper.yaml"))


def discover(root: Path = REPLICATIONS) -> tuple[str, ...]:
    """Names of the folders that hold a paper.yaml. UserError for a name that no target can have."""
    names = folders(root)
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(
                f"{Path(root) / name}: a paper's folder is named with lower-case letters, digits and underscores only"
            )
    return tuple(names)


def load_paper(name: str, root: Path = REPLICATIONS) -> Paper:
    """Loads and checks replications/<name>/paper.yaml: the schema; then settings, reasons, units, protocols, rows.

    Read once a process, until one of the folder's files changes; nobody may change what is returned.
    """
    files = sorted(f for f in (Path(root) / name).glob("*.*") if f.suffix in (".yaml", ".csv", ".py"))
    return _load_paper(
        name, root, tuple((f.name, s.st_mtime_ns, s.st_size) for f in files for s in [f.stat()])
    )


@lru_cache(maxsize=64)
def _load_paper(name: str, root: Path, stamp: tuple) -> Paper:
    """stamp: changes with the folder's files."""
    folder = Path(root) / name
    if not NAME.fullmatch(name) or not (folder / "paper.yaml").is_file():
        raise UserError(f"unknown paper {name!r}{suggestion(name, discover(root))}")
    file = folder / "paper.yaml"
    data = load_yaml(file)
    if not isinstance(data, dict):
        raise UserError(
            f"{file}: the file must be a mapping with the keys paper, title, constants, tasks, ..."
        )
    validate(data, "paper.schema.yaml", str(file))
    if data["paper"] != name:
        raise UserError(f"{file}: paper: {data['paper']!r} is not the folder's name; write {name!r}")
    protocols = {
        key: Protocol(**{"extra_episodes": 0, "noop_max": None, **value, "name": key})
        for key, value in data["protocols"].items()
    }
    base = written_out(data["tasks"], (), f"{file}: tasks")
    tasks = tasks_of(base, "tasks", protocols, folder, data)
    variants = {"": Variant("", data["short"], data["summary"], tasks)}
    for key, value in data.get("variants", {}).items():
        where = f"variants.{key}.tasks"
        own = tasks_of(written_out(value["tasks"], base, f"{file}: {where}"), where, protocols, folder, data)
        more = {name: value[name] for name in ("settings", "reasons", "kinds") if name in value}
        variants[key] = Variant(key, value["title"], value["description"], own, **more)
    all_tasks = [task for variant in variants.values() for task in variant.tasks.values()]
    kinds = dict.fromkeys(task.kind for task in all_tasks if task.script == "train") or (all_tasks[0].kind,)
    tables, claims = printed.load(data, file, variants, find_row)
    paper = Paper(
        name=name,
        folder=folder,
        title=data["title"],
        short=data["short"],
        citation={"title": data["title"], **data["citation"]},
        summary=data["summary"],
        frames_per_agent_step=data["frames_per_agent_step"],
        agent_steps_per_update=data.get("agent_steps_per_update"),
        constants_by_kind=constants_by_kind(data["constants"], kinds, data, file),
        deviations=tuple(data.get("deviations", ())),
        engineering=tuple(data.get("engineering", ())),
        variants=variants,
        budgets={key: Budget(key, **value) for key, value in data["budgets"].items()},
        printed_tables=tables,
        claims=claims,
    )
    check_settings(paper)
    return paper


# --- targets ---


def targets(root: Path = REPLICATIONS) -> dict[str, Target]:
    """Every page there is: "dqn_pong", "dqn-no_replay_pong", ... -> Target."""
    return targets_of(load_papers(root))


def load_papers(root: Path = REPLICATIONS, broken: dict[str, UserError] | None = None) -> dict[str, Paper]:
    """Those that can be loaded: a broken paper.yaml takes no other paper's pages with it.

    broken: gets the error of each of the others; without it, a line on stderr says it.
    """
    found, problems = {}, {} if broken is None else broken
    for name in folders(root):
        try:
            if not NAME.fullmatch(name):
                discover(root)
            found[name] = load_paper(name, root)
        except UserError as problem:
            problems[name] = problem
            if broken is None:
                say_aside(f"warning: {problem}; {left_out(name)}")
    return found


def left_out(name: str) -> str:
    return f"until that is mended, there are no pages of {name}"


def raise_if_broken(target: str, papers: Collection[str], broken: Mapping[str, UserError]) -> None:
    """Raises the error of the paper whose page `target` would be, "ppo-fast_pong" say, where that paper is broken."""
    owners = [name for name in (*papers, *broken) if re.match(rf"{re.escape(name)}(?:[-_]|$)", target)]
    owner = max(owners, key=len, default=None)  # "dqn_2013_pong" is of dqn_2013, and not of dqn
    if owner in broken:
        raise broken[owner]


def targets_of(papers: Mapping[str, Paper]) -> dict[str, Target]:
    found: dict[str, Target] = {}
    for paper in papers.values():
        for variant in paper.variants.values():
            for task in variant.tasks:
                target = Target(paper.name, variant.name or None, task)
                if target.name in found:
                    raise UserError(
                        f"{paper.file}: the target {target.name!r} stands for {found[target.name]} and for {target}; "
                        "rename a task or a paper"
                    )
                found[target.name] = target
    return found


def parse_target(name: str, root: Path = REPLICATIONS) -> Target:
    """ "dqn_pong" or "reports/dqn_pong.html"; UserError with close matches for anything else."""
    broken: dict[str, UserError] = {}
    papers = load_papers(root, broken)
    known = targets_of(papers)
    bare = name.removeprefix("reports/").removesuffix(".html")
    if bare not in known:
        raise_if_broken(bare, papers, broken)
        raise UserError(f"unknown target {name!r}{suggestion(bare, known)}")
    return known[bare]


def find_task(paper: Paper, variant: str | None, task: str) -> tuple[Variant, Task]:
    if (variant or "") not in paper.variants:
        names = [name for name in paper.variants if name]
        raise UserError(
            f"unknown variant {variant!r} of {paper.name}{suggestion(variant, names)} (no variant: the paper itself)"
        )
    found = paper.variants[variant or ""]
    if task not in found.tasks:
        raise UserError(
            f"unknown task {task!r} of {paper.name}{'-' + variant if variant else ''}{suggestion(task, found.tasks)}"
        )
    return found, found.tasks[task]


# --- resolving, and where things lie ---


def resolve(
    paper: Paper | str,
    variant: str | None,
    task: str,
    budget: str,
    overrides: Mapping[str, Any] | None = None,
    root: Path = REPLICATIONS,
) -> Resolved:
    """Settings, protocol and deviations of one run (`common/papers/settings.py`). `overrides` come from the command line."""
    if isinstance(paper, str):
        paper = load_paper(paper, root)
    return resolve_loaded(paper, *find_task(paper, variant, task), budget, overrides)


def agent_name(paper: str, variant: str | None) -> str:
    return f"{paper}-{variant}" if variant else paper


def run_dir(
    paper: str, variant: str | None, task: str, size: str, seed: int, results: Path | str = "results"
) -> Path:
    return Path(results) / agent_name(paper, variant) / task / size / f"seed{seed}"


def recorded_dir(
    paper: str,
    variant: str | None,
    task: str,
    size: str | None = None,
    seed: int | None = None,
    root: Path = REPLICATIONS,
) -> Path:
    """Where our own finished run lies; without `size` or `seed`, the folder above it."""
    path = Path(root) / paper / "recorded" / (variant or "base") / task
    if size:
        path = path / size
    return path / f"seed{seed}" if size and seed else path
