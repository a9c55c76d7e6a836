"""uv.lock is the one source of versions; requirements.txt and the conda files say the same."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CONDA_FILES = ("environment.yml", "envs/train.yaml", "envs/report.yaml")
# conda's names where they are not PyPI's
CONDA = {
    "python-fastjsonschema": "fastjsonschema",
    "pytorch": "torch",
    "py-opencv": "opencv-python-headless",
    "snakemake-minimal": "snakemake",
}
# torch's CUDA packages, which torch's own pins bring where its CUDA build is installed
ACCELERATOR = re.compile(r"(nvidia|cuda)-|triton$")


def name_of(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock() -> dict[str, list[dict]]:
    packages: dict[str, list[dict]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        packages.setdefault(package["name"], []).append(package)
    return packages


@pytest.fixture(scope="module")
def required() -> dict[str, set[str]]:
    """requirements.txt: versions by name (more than one where the lock forks by Python version)."""
    versions: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)( ; .+)?", line).groups()[:2]
            versions.setdefault(name, set()).add(version)
    return versions


def reachable(lock: dict, name: str) -> set[str]:
    """The packages that `name` needs, on any system, extras of the project itself left out."""
    seen: set[tuple[str, str | None]] = set()  # names, each also with the extras asked for
    todo: list[tuple[str, str | None]] = [(name, None)]
    while todo:
        name, extra = todo.pop()
        for package in lock[name]:
            needed = package["optional-dependencies"][extra] if extra else package.get("dependencies", [])
            for dependency in needed:
                if not ACCELERATOR.match(dependency["name"]):
                    new = {
                        (dependency["name"], extra) for extra in [None, *dependency.get("extra", [])]
                    } - seen
                    seen |= new
                    todo += new
    return {name for name, _ in seen}


def test_requirements_are_the_lock_version_for_version(lock, required, project):
    wanted = reachable(lock, project["name"])
    assert set(required) == wanted
    assert len(wanted) > 80
    assert required == {name: {package["version"] for package in lock[name]} for name in wanted}


def test_requirements_serve_cpu_and_cuda(required):
    assert [name for name in required if ACCELERATOR.match(name)] == []
    assert "+" not in str(required["torch"])  # a local version would tie them to one build
    assert "--" not in (ROOT / "requirements.txt").read_text()  # neither hashes nor indexes


def test_lock_is_of_this_project(lock, project):
    """A dependency changed in pyproject.toml and not locked again."""
    metadata = lock[project["name"]][0]["metadata"]["requires-dist"]

    def bounds(specifier: str) -> set[str]:
        return set(
            filter(None, re.sub(r"^\[[^]]*\]", "", specifier).replace(" ", "").split(","))
        )  # extras apart

    locked = {(d["name"], d.get("marker", "")): bounds(d.get("specifier", "")) for d in metadata}
    declared = {(name_of(d), ""): bounds(d[len(name_of(d)) :]) for d in project["dependencies"]}
    for extra, requirements in project["optional-dependencies"].items():
        declared |= {(name_of(d), f"extra == '{extra}'"): bounds(d[len(name_of(d)) :]) for d in requirements}
    assert locked == declared


def test_development_group_is_the_lock_version_for_version(lock, project, required):
    """What the tests in a real browser need stands in envs/dev.txt and nowhere else."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    (package,) = lock[project["name"]]
    locked = {(d["name"], d["specifier"]) for d in package["metadata"]["requires-dev"]["dev"]}
    assert locked == {(name_of(d), d[len(name_of(d)) :]) for d in groups["dev"]}
    wanted = {name_of(d) for d in groups["dev"]}
    wanted |= {name for d in groups["dev"] for name in reachable(lock, name_of(d))}
    lines = [line for line in (ROOT / "envs/dev.txt").read_text().splitlines() if not line.startswith("#")]
    versions = dict(re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)(?: ; .+)?", line).groups() for line in lines)
    assert versions == {name: lock[name][0]["version"] for name in wanted}
    assert not {name_of(d) for d in groups["dev"]} & set(required)


@pytest.mark.parametrize("name", ["kubernetes", "tests"])
def test_packages_beside_the_lock_fit_it(name, required):
    """envs/kubernetes.txt, envs/tests.txt: what their .in files ask for, and of what the lock has its versions."""
    lines = [line for line in (ROOT / f"envs/{name}.txt").read_text().splitlines() if line[0] != "#"]
    versions = dict(re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)(?: ; .+)?", line).groups() for line in lines)
    asked = [line for line in (ROOT / f"envs/{name}.in").read_text().splitlines() if line[0] != "#"]
    for line in asked:
        wanted = Requirement(line)
        assert wanted.specifier.contains(versions[wanted.name]), line
    shared = set(versions) & set(required)
    assert shared
    assert {package: {versions[package]} for package in shared} == {
        package: required[package] for package in shared
    }


def test_lock_comes_from_pypi_alone(lock, project):
    sources = {
        str(package["source"])
        for name, packages in lock.items()
        if name != project["name"]
        for package in packages
    }
    assert sources == {"{'registry': 'https://pypi.org/simple'}"}


def test_extras_stay_out_of_requirements(required, project):
    assert project["optional-dependencies"]
    for requirements in project["optional-dependencies"].values():
        assert not {name_of(r) for r in requirements} & set(required)


def conda_versions(file: str) -> dict[str, str]:
    """PyPI name -> version."""
    pins = yaml.safe_load((ROOT / file).read_text())["dependencies"]
    from_pip = [pin for part in pins if isinstance(part, dict) for pin in part["pip"]]
    pins = [pin for pin in pins if isinstance(pin, str) and pin != "pip"]
    pairs = [re.fullmatch(r"([a-z0-9-]+)==?([0-9.]+)", pin).groups() for pin in [*pins, *from_pip]]
    assert len(dict(pairs)) == len(pairs)
    return {CONDA.get(name, name): version for name, version in pairs}


@pytest.mark.parametrize("file", CONDA_FILES)
def test_conda_files_agree_with_the_lock(file, required):
    versions = conda_versions(file)
    assert re.fullmatch(r"3\.1[1-4]", versions.pop("python"))
    for name, version in versions.items():
        (locked,) = required[name]
        if name == "opencv-python-headless":
            locked = ".".join(locked.split(".")[:3])  # its last part counts builds of the wheel
        assert version == locked, name


def test_conda_environment_covers_every_direct_dependency(project):
    assert {name_of(d) for d in project["dependencies"]} == set(conda_versions("environment.yml")) - {
        "python"
    }


@pytest.mark.parametrize("file", CONDA_FILES[1:])
def test_rule_environments_are_parts_of_the_whole(file):
    whole = conda_versions("environment.yml")
    part = conda_versions(file)
    assert part.items() <= whole.items()
    assert {"python", "torch", "numpy", "ale-py", "safetensors", "pyyaml", "jsonschema"} <= set(part)


@pytest.mark.parametrize(
    ("file", "folders"),
    [("envs/train.yaml", ["common", "replications"]), ("envs/report.yaml", ["reports"])],
)
def test_rule_environments_hold_what_the_code_imports(file, folders):
    pypi = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "ale_py": "ale-py", "markupsafe": "jinja2",
            "pyspiel": "open-spiel", "open_spiel": "open-spiel"}  # fmt: skip
    imported = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        if path.name != "workflow.py":  # Snakemake itself runs that
            for node in ast.walk(ast.parse(path.read_text())):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                imported |= {module.split(".")[0] for module in modules}
    own = {path.name for path in ROOT.iterdir() if path.is_dir()}
    needed = {pypi.get(name, name) for name in imported - set(sys.stdlib_module_names) - own}
    assert len(needed) > 1
    assert needed <= set(conda_versions(file))


def test_this_environment_is_the_locked_one(required):
    """The tests run with the versions that everybody gets."""
    from importlib.metadata import version

    for name in (
        "numpy",
        "torch",
        "gymnasium",
        "ale-py",
        "safetensors",
        "snakemake",
        "opencv-python-headless",
    ):
        assert version(name).split("+")[0] in required[name], (
            f"{name}: call ./run, which installs what requirements.txt says"
        )
