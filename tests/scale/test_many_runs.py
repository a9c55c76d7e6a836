"""Ten agents on 57 games with five seeds each, 2,850 runs, through the workflow, with a scheduler that is an executor of Snakemake's.

Its jobs are no processes: it writes their outputs itself, and fails one in fifty. What is left is the workflow: its graph, what
it asks for, attempts, the summary, and that nothing is trained twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.toy import PAPER, write_toy

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
GAMES, VARIANTS, SEEDS = [f"game_{n:02}" for n in range(57)], [f"variant_{n}" for n in range(9)], 5
RUNS = len(GAMES) * (1 + len(VARIANTS)) * SEEDS

EXECUTOR = '''
"""A scheduler that takes jobs and ends them at its next look. One attempt in fifty fails; seed 3 of game_07 does until "mended"."""
import json
import random
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True, implies_no_shared_fs=False, job_deploy_sources=False, pass_default_storage_provider_args=False,
    pass_default_resources_args=False, pass_envvar_declarations_to_cmd=False, auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


class Executor(RemoteExecutor):
    def __post_init__(self):
        self.number = 0

    def run_job(self, job):
        self.number += 1
        with open("submitted", "a") as log:
            log.write(f"{job.rule.name} {job.output[0]} {job.attempt} {job.resources.get('mem_mb')} {job.resources.get('runtime')}\\n")
        self.report_job_submission(SubmittedJobInfo(job, external_jobid=str(self.number)))

    async def check_active_jobs(self, active_jobs):
        for info in active_jobs:
            job = info.job
            never = "game_07" in job.output[0] and "seed3" in job.output[0] and not Path("mended").exists()
            if never or random.Random(f"{job.output[0]} {job.rule.name} {job.attempt}").random() < 0.02:
                Path(str(job.log[0])).parent.mkdir(parents=True, exist_ok=True)
                Path(str(job.log[0])).write_text("error: the node is on fire\\n")
                self.report_job_error(info)
                continue
            settings = json.loads(job.params.settings)["settings"] if job.rule.name == "train" else {}
            run = json.dumps({"settings": settings, "cost": {"seconds": 60}})
            for path in job.output:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(run if path.endswith("run.json") else "{}")
            with open("done", "a") as log:
                log.write(f"{job.rule.name} {job.output[0]}\\n")
            self.report_job_success(info)
        return
        yield

    def cancel_jobs(self, active_jobs):
        pass
'''
RENDER = """
import sys
from pathlib import Path

Path(sys.argv[sys.argv.index("--out") + 1]).write_text("a page")
"""


@pytest.fixture
def repo(tmp_path) -> Path:
    toy = write_toy(tmp_path)
    folder = tmp_path / "repo"
    folder.mkdir()
    shutil.move(toy, folder / "replications")
    paper = yaml.safe_load(PAPER)
    game = {k: v for k, v in paper["tasks"][0].items() if k not in ("published", "random")}
    game |= {"names": GAMES, "published": "none", "published_reason": "not printed"}
    paper["tasks"] = [game]
    paper["variants"] = {
        name: {"title": name, "description": "One.", "settings": {"replay": False}, "reasons": {"replay": "itself"}, "tasks": [game]}
        for name in VARIANTS
    }  # fmt: skip
    (folder / "replications/toy/paper.yaml").write_text(yaml.safe_dump(paper, sort_keys=False))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("profiles", "envs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copytree(ROOT / "common", folder / "common", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "reports").mkdir()
    for name, text in (("__init__", ""), ("render", RENDER), ("index", RENDER)):
        (folder / "reports" / f"{name}.py").write_text(text)
    (folder / "snakemake_executor_plugin_burning").mkdir()
    (folder / "snakemake_executor_plugin_burning/__init__.py").write_text(EXECUTOR)
    return folder


def snakemake(repo: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-c", "import sys; from snakemake.cli import main; main()", "all", *arguments]
    config = ["--config", "targets=toy*", f"seeds={SEEDS}", "budget=paper", "device=cuda", "longest_job=24"]
    profile = [
        "--profile",
        "none",
        "--workflow-profile",
        "none",
        "--keep-going",
        "--retries",
        "3",
        "--jobs",
        "500",
    ]
    triggers = [
        "--rerun-triggers",
        "mtime",
        "input",
        "params",
        "--rerun-incomplete",
        "--scheduler",
        "greedy",
        "--local-cores",
        "2",
    ]
    quick = [
        "--max-jobs-per-timespan",
        "100000/1s",
        "--seconds-between-status-checks",
        "1",
        "--latency-wait",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(repo), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [*command, *profile, *triggers, *quick, *config],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def lines(repo: Path, name: str) -> list[list[str]]:
    return [line.split() for line in (repo / name).read_text().splitlines()]


def test_2850_runs_with_failures_are_all_done_and_none_is_trained_twice(repo):
    code, printed = snakemake(repo, "--executor", "burning")
    assert code == 1
    attempts = Counter(tuple(line[:2]) for line in lines(repo, "submitted"))
    failed = sum(attempts.values()) - len(lines(repo, "done"))
    assert 0.01 * sum(attempts.values()) < failed - 10 * 4 < 0.03 * sum(attempts.values())
    told = printed[printed.rindex(" jobs failed; ") :]
    assert (
        told.count("the node is on fire") == 10
    )  # of ten agents, seed 3 of one game; all else came at a later attempt
    assert printed.splitlines()[-22].startswith("10 jobs failed; ")

    (repo / "mended").touch()
    code, printed = snakemake(repo, "--executor", "burning")
    assert code == 0, printed[-3000:]
    done = Counter(tuple(line) for line in lines(repo, "done"))
    assert set(done.values()) == {1}
    assert Counter(rule for rule, _ in done) == {"train": RUNS, "evaluate": RUNS}
    assert len(list((repo / "reports").glob("toy*.html"))) == RUNS / SEEDS
    assert "Nothing to be done" in snakemake(repo, "--executor", "burning")[1]

    status = subprocess.run(
        [sys.executable, "-m", "common.runs.status"], cwd=repo, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(repo)},
    )  # fmt: skip
    assert status.stdout.splitlines()[0] == f"{RUNS} runs: {RUNS} finished"
