"""profiles/slurm on a real SLURM of one node: a page, scancel, a time limit, a requeue, and the same bytes at the end of each.

Needs root, Debian's packages (apt-get install slurmctld slurmd munge) and ./run python -m pip install -r envs/slurm.txt.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.papers.validation import load_yaml

ROOT = Path(__file__).resolve().parents[2]
SLURM = Path(__file__).with_name("slurm.sh")
BIN = Path(sys.executable).parent
STEPS = 30_000
SOON = ("--slurm-init-seconds-before-status-checks", "5")
FRAMES = f"frames={STEPS}"  # CartPole has one frame a step
SAME = ("curve.csv", "episodes.csv", "model.safetensors")
LACKING = [
    name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name, path="/usr/sbin:/usr/bin")
]
if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
    LACKING.append("envs/slurm.txt")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(LACKING) or os.geteuid() != 0, reason=f"not root, or missing: {LACKING}"),
]


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = Path("/tmp/slurm-of-tests")  # a socket's path must be short
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([SLURM, "start", folder], env=environment(), check=True)
    yield
    subprocess.run([SLURM, "stop", folder], env=environment(), check=True)


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repo")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )  # fmt: skip
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def reference(repo) -> dict[str, bytes]:
    """The bytes of a run that nothing stopped."""
    command = [
        sys.executable,
        "-m",
        "replications.dqn.train",
        "--task",
        "cartpole",
        "--budget",
        f"frames-{STEPS}",
    ]
    options = ["--seed", "1", "--device", "cpu", "--threads", "1", "--results", "reference"]
    subprocess.run([*command, *options], cwd=repo, env=environment(), check=True)
    return {
        name: (repo / f"reference/dqn/cartpole/frames-{STEPS}/seed1" / name).read_bytes() for name in SAME
    }


def snakemake(repo: Path, *arguments: str) -> subprocess.Popen:
    command = [BIN / "snakemake", *arguments]
    where = {
        "cwd": repo,
        "env": environment(),
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    return subprocess.Popen(command, **where)


def train(repo: Path, results: str, *config: str) -> subprocess.Popen:
    run = f"{results}/dqn/cartpole/frames-{STEPS}/seed1/run.json"
    config = ("--config", "device=cpu", FRAMES, f"results={results}", *config)
    return snakemake(repo, run, "--workflow-profile", "profiles/slurm", *SOON, *config)


def wait_for(what, seconds: float = 300):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.5)
    return found


def jobs(state: str = "") -> list[str]:
    listed = subprocess.run(
        ["squeue", "--noheader", "--format", "%i %T"], capture_output=True, text=True, check=True
    )
    return [line.split()[0] for line in listed.stdout.splitlines() if line.endswith(state)]


def is_saved_midway(repo: Path, results: str) -> bool:
    status = repo / results / f"dqn/cartpole/frames-{STEPS}/seed1/checkpoint/status.json"
    return status.exists() and json.loads(status.read_text())["agent_steps"] > STEPS / 10


def check_same(repo: Path, results: str, reference: dict[str, bytes], attempts: int) -> None:
    folder = repo / results / f"dqn/cartpole/frames-{STEPS}/seed1"
    assert {name: (folder / name).read_bytes() for name in SAME} == reference
    assert json.loads((folder / "run.json").read_text())["cost"]["attempts"] == attempts


def test_a_page(cluster, repo):
    process = snakemake(
        repo,
        "reports/dqn_pong.html",
        "--workflow-profile",
        "profiles/slurm",
        *SOON,
        "--config",
        "budget=smoke",
        "device=cpu",
    )
    wait_for(lambda: jobs("RUNNING"))
    asked = subprocess.run(
        ["scontrol", "show", "job", jobs("RUNNING")[0]], capture_output=True, text=True, check=True
    ).stdout
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    assert (repo / "reports/dqn_pong.html").stat().st_size > 10_000
    assert "Partition=cpu" in asked
    assert "NumCPUs=4" in asked  # a game
    assert "TimeLimit=00:11:00" in asked or "TimeLimit=00:12:00" in asked
    assert "failed" not in output


def test_scancel(cluster, repo, reference):
    process = train(repo, "cancelled")
    wait_for(lambda: is_saved_midway(repo, "cancelled"))
    subprocess.run(["scancel", *jobs("RUNNING")], check=True)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    assert "Trying to restart job" in output
    check_same(repo, "cancelled", reference, attempts=2)


def test_requeue(cluster, repo, reference):
    """As after a pre-emption: the same job comes back, and Snakemake does not notice."""
    process = train(repo, "requeued")
    wait_for(lambda: is_saved_midway(repo, "requeued"))
    subprocess.run(["scontrol", "requeue", *jobs("RUNNING")], check=True)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    assert "Trying to restart job" not in output
    check_same(repo, "requeued", reference, attempts=2)


def test_a_time_limit(cluster, repo, reference):
    """A longest job of a minute, and a run that takes longer: it goes on in further jobs, and none counts as a failure."""
    slow = repo / "sitecustomize.py"  # SLURM counts in minutes: a run of half a minute sleeps as it goes
    slow.write_text(
        "import sys\nif 'replications.dqn.train' in ' '.join(sys.orig_argv):\n    import time\n    from common.runs import progress\n"
        "    real = progress.Progress.advance\n"
        "    def advance(self, steps):\n        real(self, steps)\n        self.agent_steps % 300 or time.sleep(0.5)\n"
        "    progress.Progress.advance = advance\n"
    )
    try:
        process = train(repo, "limited", f"longest_job={1 / 60}")
        output = process.communicate(timeout=1500)[0]
    finally:
        slow.unlink()
    assert process.returncode == 0, output
    folder = repo / "limited" / f"dqn/cartpole/frames-{STEPS}/seed1"
    assert json.loads((folder / "run.json").read_text())["cost"]["attempts"] > 1
    assert {name: (folder / name).read_bytes() for name in SAME} == reference


@pytest.mark.parametrize(
    ("partition", "reason"),
    [("empty", "PartitionConfig"), ("minutes", "PartitionTimeLimit"), ("down", "PartitionDown")],
)
def test_a_job_that_cannot_start_is_told_of_within_a_minute(cluster, repo, partition, reason):
    process = train(repo, f"never-{partition}", f"partition_cpu={partition}")
    began, told = None, ""
    for line in process.stdout:
        began = time.monotonic() if "has been submitted" in line else began
        if "will not start" in line:
            told = line
            break
    assert reason in told
    assert f"in partition {partition}" in told
    assert time.monotonic() - began < 60
    subprocess.run(["scancel", *jobs()], check=True)
    process.kill()
    process.communicate()
    shutil.rmtree(repo / ".snakemake" / "locks", ignore_errors=True)


def test_the_profile_names_no_resource_of_its_own():
    profile = load_yaml(ROOT / "profiles/slurm/config.yaml")
    assert "set-resources" not in profile
    assert profile["slurm-status-command"] == "squeue"
