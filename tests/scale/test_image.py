"""Dockerfile and apptainer.def: read as text, linted, and the step that makes their environment run in a folder, without a builder."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.training import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
APPTAINER = (ROOT / "apptainer.def").read_text()
HADOLINT = Path(sys.executable).parent / "hadolint"
HOME = "/opt/deep-rl-replications"


def instructions(text: str) -> list[tuple[str, str]]:
    """(FROM, its words) and so on of a Dockerfile, comments gone and continued lines joined."""
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file out of the image."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parts = path.split("/")
    parents = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    short = [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    return any(fnmatch.fnmatchcase(parent, pattern) for parent in parents for pattern in patterns) or any(
        part in short for part in parts
    )


def test_the_image_runs_as_a_user_who_is_not_root_and_nothing_is_installed_at_its_start():
    said = instructions(DOCKERFILE)
    users = [words for name, words in said if name == "USER"]
    assert users[-1].isdigit()
    assert int(users[-1]) > 0
    after = said[said.index(("USER", users[-1])) + 1 :]
    assert [name for name, _ in after] == ["WORKDIR", "CMD"]
    assert after[1][1] == '["bash"]'
    assert "install -m 755 envs/image/pip .venv/bin/pip" in (ROOT / "envs/image/build.sh").read_text()


def test_what_is_copied_is_there_and_what_the_repository_holds_is_copied():
    for name, words in instructions(DOCKERFILE):
        if name == "COPY":
            *sources, _ = words.split()
            assert [source for source in sources if not (ROOT / source).exists()] == []
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert [path for path in listed.stdout.splitlines() if ignored(path)] == []
    for left in (".venv/bin/python", "results/dqn/run.json", "reports/dqn_pong.html", "a/__pycache__/b.pyc"):
        assert ignored(left)


def test_both_recipes_say_the_same():
    says = instructions(DOCKERFILE)
    base = next(words for name, words in says if name == "FROM")
    assert re.search(r"^From: (.*)$", APPTAINER, re.MULTILINE)[1].replace("{{ PYTHON }}", "${PYTHON}") == base
    for name, value in (words.split("=") for key, words in says if key == "ARG"):
        assert f"    {name}={value}\n" in APPTAINER
    for step in ("--no-install-recommends git", f"safe.directory {HOME}", "sh envs/image/build.sh"):
        assert step in DOCKERFILE
        assert step in APPTAINER
    environment = dict(re.findall(r"(PATH|PYTHONPATH|PYTHONDONTWRITEBYTECODE)=(\S+)", DOCKERFILE))
    assert len(environment) == 3
    for name, value in environment.items():
        assert f"export {name}={value.replace('${PATH}', '$PATH')}\n" in APPTAINER


@pytest.mark.slow  # where its package is installed
@pytest.mark.skipif(
    not HADOLINT.exists() and os.environ.get("KUBERNETES_TESTS") != "required",
    reason="hadolint is not installed (./run python -m pip install -r envs/tests.txt)",
)
def test_dockerfile_is_linted():
    assert subprocess.run([HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, text=True).stdout == ""


@pytest.mark.long
def test_the_environment_is_made_and_serves_somebody_else_in_a_folder_nobody_can_write_to():
    """build.sh where the image has the repository; then a pod's first words, and a training, as a user without a name."""
    with tempfile.TemporaryDirectory() as outside:
        os.chmod(outside, 0o755)
        root, work = Path(outside) / "image", Path(outside) / "workdir"
        shutil.copytree(
            ROOT,
            root,
            ignore=lambda folder, names: [
                name
                for name in names
                if name == ".git" or ignored(os.path.relpath(os.path.join(folder, name), ROOT))
            ],
        )
        python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
        build = {"TORCH": "cpu", "PYTHON": python}
        subprocess.run(["sh", "envs/image/build.sh"], cwd=root, env=os.environ | build, check=True)
        subprocess.run(["chmod", "-R", "a+rX,a-w", root], check=True)
        work.mkdir()
        os.chmod(work, 0o777)
        other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        image = {
            "PATH": f"{root}/.venv/bin:/usr/bin:/bin",
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        image |= {"WANDB_MODE": "disabled", "PIP_INDEX_URL": "http://127.0.0.1:9"}  # nothing can be fetched

        def pod(command: str) -> str:
            done = subprocess.run(
                ["/bin/sh", "-c", command], cwd=work, env=image, capture_output=True, text=True, **other
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert "snakemake-storage-plugin-s3" in pod("pip install --target 'here' snakemake-storage-plugin-s3")
        assert "--kubernetes-namespace" in pod("python -m snakemake --help")
        pod(
            "python -m replications.dqn.train --task cartpole --seed 1 --budget smoke --device cpu --results results"
        )
        run = json.loads((work / "results/dqn/cartpole/smoke/seed1/run.json").read_text())
        assert run["progress"]["agent_steps"] == 3000
        assert not [path for path in root.rglob("__pycache__") if ".venv" not in path.parts]
