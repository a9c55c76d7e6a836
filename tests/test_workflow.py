"""The Snakefile, run for real on a toy paper whose trainer, evaluation and page are a few lines each."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import papers
from common.configuration import checked_config
from common.errors import UserError
from common.runs import devices, status
from common.workflow import Flow
from tests.toy import write_toy

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime.datetime.now(datetime.UTC)
SNAKEMAKE = Path(sys.executable).parent / "snakemake"

# A trainer with the contract of the real one: a counter is saved as it goes, outputs are written at the end.
TOY_RUN = """
import argparse, json, os, signal, sys, time
from pathlib import Path

sys.path.insert(0, os.getcwd())
from common import papers
from common.errors import UserError, run_main


def main():
    run_main(train)


def train():
    parser = argparse.ArgumentParser()
    for name in ("task", "variant", "budget", "device", "results"):
        parser.add_argument("--" + name)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--stop-when-reached", action="store_true")
    a, rest = parser.parse_known_args()
    plain = papers.resolve("toy", a.variant, a.task, a.budget)
    fields = plain.paper.fields(plain.task.script)
    own = papers.in_type(papers.settings_in(" ".join(rest)), fields, "toy")
    size = papers.overridden_size(a.budget, own)
    resolved = papers.resolve("toy", a.variant, a.task, size, own)
    if Path("fail").exists():
        raise UserError("the toy was told to fail")
    if Path("crash_once").exists():
        Path("crash_once").unlink()
        sys.exit(7)
    folder = papers.run_dir("toy", a.variant, a.task, size, a.seed, a.results)
    work = folder / "checkpoint"
    work.mkdir(parents=True, exist_ok=True)
    saved = work / "count"
    if a.fresh:
        saved.unlink(missing_ok=True)
    count = int(saved.read_text()) if saved.exists() else 0
    began = "resumed at" if count else "started at"
    Path("prefix").write_text(sys.prefix)
    stop = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.append(1))
    print(began, count, "device", a.device, "wandb", os.environ["WANDB_MODE"], flush=True)
    while count < 20 or Path("slow").exists():
        count += 1
        (work / "new").write_text(str(count))
        (work / "new").replace(saved)  # whoever reads it finds a number, and so does who goes on after a kill
        time.sleep(0.25 if Path("slow").exists() else 0)
        if stop:
            print("saved at", count, flush=True)
            os._exit(75)
    run = {"settings": resolved.settings, "settings_key": papers.settings_key(resolved, a.seed), "overrides": own}
    for name in ("curve.csv", "episodes.csv", "timing.csv", "model.safetensors", "run.json"):
        (folder / name).write_text(json.dumps({"trained": time.time(), **vars(a), **run}))
    with open("trained", "a") as log:
        log.write(f"{a.task} {a.budget} {a.seed} {' '.join(sys.argv[1:])}\\n")
"""
EVALUATION = """
import sys
from pathlib import Path

folder = Path(sys.argv[1])
(folder / "evaluation.json").write_text("{}")
(folder / "episode.mp4").write_text("")
with open("evaluated", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
"""
RENDER = """
import sys
from pathlib import Path

Path(sys.argv[sys.argv.index("--out") + 1]).write_text(" ".join(sys.argv[1:]))
with open("rendered", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
"""

INDEX = """
import sys
from pathlib import Path

pages = sorted(p.name for p in Path("reports").glob("toy*.html"))
Path(sys.argv[sys.argv.index("--out") + 1]).write_text(" ".join(pages))
with open("indexed", "a") as log:
    log.write(" ".join(pages) + "\\n")
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path)


@pytest.fixture
def repo(toy: Path) -> Path:
    """A repository of its own, with a space in its path: this one's workflow around the toy paper."""
    folder = toy.parent / "a repo"
    folder.mkdir()
    shutil.move(toy, folder / "replications")
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copytree(ROOT / "envs", folder / "envs")
    shutil.copytree(ROOT / "common", folder / "common", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "common" / "toy_run.py").write_text(TOY_RUN)
    (folder / "common" / "runs" / "evaluate.py").write_text(EVALUATION)
    (folder / "reports").mkdir()
    (folder / "reports" / "__init__.py").touch()
    (folder / "reports" / "render.py").write_text(RENDER)
    (folder / "reports" / "index.py").write_text(INDEX)
    (folder / "reports" / "page.css").write_text("a {}")
    config = (
        (folder / "config.yaml")
        .read_text()
        .replace("[dqn_pong]", "[toy_pong]")
        .replace("budget: auto", "budget: smoke")
    )
    (folder / "config.yaml").write_text(config)
    return folder


def environment(**more: str) -> dict[str, str]:
    """Without the virtual environment on PATH: a user may call .venv/bin/snakemake without activating it."""
    here = str(SNAKEMAKE.parent)
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != here)
    dropped = ("WANDB_MODE", "PYTHONPATH", "CUDA_VISIBLE_DEVICES")
    return {**{k: v for k, v in os.environ.items() if k not in dropped}, "PATH": path, **more}


# Importing Snakemake takes longer than all else in these tests: one process imports it, and forks for each call.
SERVER = """
import atexit, json, os, sys
import snakemake.cli, snakemake.dag, snakemake.persistence, snakemake.scheduling.job_scheduler, snakemake.workflow

for line in sys.stdin:
    call = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["env"])
        for stream, path in ((0, os.devnull), (1, call["log"]), (2, call["log"])):
            os.dup2(os.open(path, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv = ["snakemake", *call["arguments"]]
        code = 0
        try:
            snakemake.cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 99
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def start_server() -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment(), start_new_session=True, **pipes
    )


@pytest.fixture(scope="module")
def servers():
    running = [start_server()]
    yield running
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def snakemake(servers, tmp_path):
    """Calls Snakemake in a folder, expects its exit code, returns what it printed."""

    def call(folder: Path, *arguments: str, code: int = 0, **env: str) -> str:
        if servers[-1].poll() is not None:
            servers.append(start_server())
        server, log = servers[-1], tmp_path / "printed"
        log.unlink(missing_ok=True)
        what = {"folder": str(folder), "arguments": arguments, "env": environment(**env), "log": str(log)}
        server.stdin.write(json.dumps(what) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the process that calls Snakemake ended with {server.wait(60)}"
        printed = log.read_text()
        assert int(answer) == code, printed
        return printed

    return call


def lines(repo: Path, name: str) -> list[str]:
    path = repo / name
    return path.read_text().splitlines() if path.exists() else []


# --- whole runs ---


def test_from_nothing_to_a_page_and_what_runs_again_when(repo, snakemake):
    output = snakemake(repo)  # no flag, no target: what config.yaml lists
    assert output.index(
        "toy_pong: size smoke (400 frames, 0.002 of the paper's, 1 seed, on cpu): a second"
    ) < output.index("started at 0")
    said = output.splitlines()  # of Snakemake's own lines next to nothing
    assert len(said) < 16, output
    assert "rule train" not in output
    assert "--config budget=hour: an hour" in output
    run = repo / "results/toy/pong/smoke/seed1"
    assert {p.name for p in run.iterdir()} >= {
        "run.json",
        "curve.csv",
        "model.safetensors",
        "evaluation.json",
        "episode.mp4",
    }
    assert (
        "started at 0 device auto wandb offline" in (repo / "logs/toy/pong/smoke/seed1/train.log").read_text()
    )
    assert lines(repo, "rendered") == [
        "toy_pong --results results --source own --asked smoke --out reports/toy_pong.html"
    ]
    assert lines(repo, "prefix") == [sys.prefix]  # the environment of Snakemake, which nobody activated

    # what only some evaluations leave is an output of all: empty there, and no reason to evaluate again where it is not
    for name in ("best.mp4", "values.json"):
        assert (run / name).read_bytes() == b""
        (run / name).unlink()
    assert "Nothing to be done" in snakemake(repo, "reports/toy_pong.html")

    # one more seed: only that one is trained; the page is made anew
    snakemake(repo, "reports/toy_pong.html", "--config", "seeds=2")
    assert [line.split()[:3] for line in lines(repo, "trained")] == [
        ["pong", "smoke", "1"],
        ["pong", "smoke", "2"],
    ]
    assert len(lines(repo, "rendered")) == 2

    # another length, another device: nothing is trained again for the device alone; code is no reason at all
    (repo / "replications/toy/train.py").write_text(
        "# a comment\n" + (repo / "replications/toy/train.py").read_text()
    )
    snakemake(repo, "reports/toy_pong.html", "--config", "frames=40", "device=cpu")
    assert [line.split()[1] for line in lines(repo, "trained")] == ["smoke", "smoke", "frames-40"]
    assert "--device cpu" in lines(repo, "evaluated")[-1]
    assert (repo / "results/toy/pong/frames-40/seed1/evaluation.json").exists()

    # a setting: trained again, evaluated again, rendered again
    paper = repo / "replications/toy/paper.yaml"
    paper.write_text(paper.read_text().replace("{training_steps: 100,", "{training_steps: 200,"))
    snakemake(repo)
    assert [line.split()[1] for line in lines(repo, "trained")] == ["smoke", "smoke", "frames-40", "smoke"]

    # the style sheet: rendered only
    counts = [len(lines(repo, name)) for name in ("trained", "evaluated", "rendered")]
    time.sleep(0.01)
    (repo / "reports/page.css").write_text("b {}")
    snakemake(repo)
    assert [len(lines(repo, name)) for name in ("trained", "evaluated", "rendered")] == [
        *counts[:2],
        counts[2] + 1,
    ]

    # start over: forced although all is there, and without the flag all is well again
    snakemake(repo, "reports/toy_pong.html", "--config", "fresh=true")
    assert lines(repo, "trained")[-1].split()[:3] == ["pong", "smoke", "1"]
    assert "--fresh" in lines(repo, "trained")[-1]
    trained = lines(repo, "trained")
    snakemake(repo)  # the index follows its pages
    assert lines(repo, "trained") == trained
    assert "Nothing to be done" in snakemake(repo)


def test_snakemakes_own_lines_are_there_for_who_wants_them(repo, snakemake):
    order = ("reports/toy_pong.html", "--config", "source=recorded")
    folder = papers.recorded_dir("toy", None, "pong", "hour", 1, root=repo / "replications")
    folder.mkdir(parents=True)
    for name in ("run.json", "evaluation.json"):
        (folder / name).write_text("{}")
    assert "rule report" in snakemake(repo, "-n", *order)
    assert "rule report" in snakemake(repo, order[0], "--verbose", *order[1:])
    (repo / "reports/toy_pong.html").unlink()
    assert "rule report" not in snakemake(repo, *order)


def test_recorded_pages_need_no_training_and_own_ones_follow(repo, snakemake):
    message = snakemake(repo, "reports/toy_pong.html", "--config", "source=recorded", code=1)
    assert "nothing is recorded for toy_pong; recorded are: none yet" in message
    folder = papers.recorded_dir("toy", None, "pong", "hour", 1, root=repo / "replications")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "evaluation.json").write_text("{}")
    snakemake(repo, "reports/toy_pong.html", "--config", "source=recorded")
    assert lines(repo, "trained") == []
    assert lines(repo, "rendered") == [
        "toy_pong --results results --source recorded --out reports/toy_pong.html"
    ]
    snakemake(repo, "reports/toy_pong.html")
    assert len(lines(repo, "trained")) == 1
    assert "--source own" in lines(repo, "rendered")[-1]
    snakemake(repo, "reports/toy_pong.html", "--config", "source=recorded", "results=other")
    assert not (repo / "other").exists()
    assert "--source recorded" in lines(repo, "rendered")[-1]
    assert len(lines(repo, "trained")) == 1


def test_the_index_is_made_from_whatever_there_is_and_never_trains(repo, snakemake):
    snakemake(repo, "reports/index.html")
    assert (lines(repo, "trained"), lines(repo, "indexed")) == ([], [""])
    assert "Nothing to be done" in snakemake(repo, "reports/index.html")
    # with pages asked for at the same call, it is made after them
    snakemake(repo, "reports/index.html", "reports/toy_ring.html", "--config", "budget=smoke")
    assert lines(repo, "indexed")[1:] == ["toy_ring.html"]
    trained = lines(repo, "trained")
    # a changed setting makes that run outdated, and still nothing is trained for the index; new runs make it anew
    paper = repo / "replications/toy/paper.yaml"
    paper.write_text(paper.read_text().replace("{training_steps: 100,", "{training_steps: 200,"))
    folder = repo / "results/toy/pong/hour/seed1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    snakemake(repo, "reports/index.html")
    assert len(lines(repo, "indexed")) == 3
    assert "Nothing to be done" in snakemake(repo, "reports/index.html")
    (folder / "evaluation.json").write_text("{}")
    snakemake(repo, "reports/index.html")
    assert len(lines(repo, "indexed")) == 4
    assert lines(repo, "trained") == trained
    # a plain call makes the pages of config.yaml and the index
    snakemake(repo)
    assert lines(repo, "indexed")[4:] == ["toy_pong.html toy_ring.html"]
    assert "Nothing to be done" in snakemake(repo)


def test_a_failed_trainer_fails_the_workflow_and_a_crash_is_tried_again(repo, snakemake):
    (repo / "fail").touch()
    message = snakemake(repo, "reports/toy_pong.html", code=1)
    assert "error: the toy was told to fail" in message  # although `tee` itself went well
    assert "Traceback" not in message
    assert "MissingOutput" not in message  # its exit code arrives, not only the lack of files
    assert not (repo / "reports/toy_pong.html").exists()
    (repo / "fail").unlink()
    (repo / "crash_once").touch()
    printed = snakemake(repo, "reports/toy_pong.html", "--config", "wandb=disabled", "fresh=true")
    assert "job failed; " not in printed  # it went well at the second attempt
    assert "wandb disabled" in (repo / "logs/toy/pong/smoke/seed1/train.log").read_text()
    # the second attempt goes on from what the first one saved
    assert "--fresh" not in lines(repo, "trained")[-1]


def test_a_sweep_that_fails_in_one_run_says_so_once_and_finishes_the_rest(repo, snakemake):
    run = repo / "common" / "toy_run.py"
    run.write_text(run.read_text().replace('Path("fail").exists()', 'Path("fail").exists() and a.seed == 2'))
    (repo / "fail").touch()
    printed = snakemake(
        repo, "reports/toy_pong.html", "reports/toy_cartpole.html", "--config", "seeds=3", code=1
    )
    told = printed[printed.rindex("2 jobs failed; ") :]
    assert told.splitlines() == [
        "2 jobs failed; 8 went well:",
        *(
            line
            for task in sorted(("pong", "cartpole"), key=lambda task: told.index(task))
            for line in (
                f"  train results/toy/{task}/smoke/seed2: the toy was told to fail",
                f"      logs/toy/{task}/smoke/seed2/train.log",
            )
        ),
        "what is finished is kept; the same command tries the others again, from their last checkpoint",
    ]
    assert sorted(line.split()[2] for line in lines(repo, "trained")) == ["1", "1", "3", "3"]
    listed = [" ".join(line.split()) for line in status.table(status.states_in(repo / "results", NOW))]
    assert listed[0] == "6 runs: 2 failed, 4 finished"
    assert "failed toy/pong/smoke/seed2 the toy was told to fail" in listed
    (repo / "fail").unlink()
    assert "failed" not in snakemake(
        repo, "reports/toy_pong.html", "reports/toy_cartpole.html", "--config", "seeds=3"
    )
    assert sorted(line.split()[2] for line in lines(repo, "trained")) == ["1", "1", "2", "2", "3", "3"]
    assert status.table(status.states_in(repo / "results", NOW))[0] == "6 runs: 6 finished"


def test_a_dry_run_ends_with_the_sum(repo, snakemake):
    printed = snakemake(repo, "-n", "reports/toy_pong.html", "--config", "seeds=3")
    assert "in sum: 3 runs to train, " in printed.splitlines()[-4]
    assert "core hours, 0 GPU hours" in printed.splitlines()[-4]
    assert "estimates, never measured: toy" in printed.splitlines()[-1]


def start(repo: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen:
    process = subprocess.Popen(
        [*before, SNAKEMAKE, *arguments],
        cwd=repo,
        env=environment(WANDB_MODE="disabled"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    log = repo / "logs/toy/pong/smoke/seed1/train.log"
    log.unlink(missing_ok=True)
    deadline = time.monotonic() + 300  # a busy machine
    while not (log.exists() and " at " in log.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process


def counted(repo: Path) -> int:
    return int((repo / "results/toy/pong/smoke/seed1/checkpoint/count").read_text())


def test_stopped_and_killed_runs_go_on(repo, snakemake):
    (repo / "slow").touch()
    log = repo / "logs/toy/pong/smoke/seed1/train.log"
    for stop in (
        lambda pid: os.killpg(pid, signal.SIGINT),  # Ctrl-C
        lambda pid: os.kill(pid, signal.SIGTERM),  # `docker stop`, `kill`: Snakemake alone hears it
    ):
        process = start(repo, "reports/toy_pong.html")
        time.sleep(0.6)
        stop(process.pid)
        assert process.wait(120) == 1
        assert "saved at" in log.read_text()  # `tee` outlives the signal
    stopped_at = counted(repo)

    process = start(repo, "reports/toy_pong.html")
    time.sleep(0.6)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    killed_at = counted(repo)
    assert killed_at > stopped_at

    (repo / "slow").unlink()
    assert any((repo / ".snakemake/locks").iterdir())
    output = snakemake(repo, "reports/toy_pong.html", WANDB_MODE="disabled")
    assert "left its lock; it is removed" in output
    assert (
        f"resumed at {killed_at} device auto wandb disabled" in log.read_text()
    )  # the variable won over config.yaml
    assert (repo / "reports/toy_pong.html").exists()


def test_a_second_command_for_the_same_page_hears_of_the_first(repo, snakemake):
    (repo / "slow").touch()
    process = start(repo, "reports/toy_pong.html")
    try:
        message = snakemake(repo, "reports/toy_pong.html", code=1)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(120)
    assert f"another command (process {process.pid}) is making some of the same pages" in message
    assert "unlock" not in message


@pytest.mark.slow
def test_a_closed_terminal_saves_a_schedulers_end_saves_and_nohup_goes_on(repo):
    (repo / "slow").touch()
    log = repo / "logs/toy/pong/smoke/seed1/train.log"
    for number in (signal.SIGHUP, signal.SIGTERM):  # both reach every process of the group
        process = start(repo, "reports/toy_pong.html")
        os.killpg(process.pid, number)
        assert process.wait(120) == 1
        assert "saved at" in log.read_text()
    process = start(repo, "reports/toy_pong.html", before=("nohup",))
    os.killpg(process.pid, signal.SIGHUP)
    before = counted(repo)
    time.sleep(2)
    assert process.poll() is None
    assert counted(repo) > before
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(120) == 1
    assert "saved at" in log.read_text()


def test_a_run_that_was_deleted_is_trained_again(repo, snakemake):
    snakemake(repo, "reports/toy_pong.html")
    run = repo / "results/toy/pong/smoke/seed1"
    for delete, counts in (
        (lambda: shutil.rmtree(run), [2, 2, 2]),
        ((run / "evaluation.json").unlink, [2, 3, 3]),
    ):
        delete()
        snakemake(repo, "reports/toy_pong.html")
        assert [len(lines(repo, name)) for name in ("trained", "evaluated", "rendered")] == counts
        output = snakemake(repo, "-n", "reports/toy_pong.html")
        assert "Nothing to be done" in output, output


def test_work_in_progress_can_lie_on_another_disk(repo, snakemake):
    snakemake(repo, "reports/toy_pong.html", "--config", "checkpoints=other disk", "results=my results")
    link = repo / "my results/toy/pong/smoke/seed1/checkpoint"
    assert link.is_symlink()
    assert (repo / "other disk/toy/pong/smoke/seed1/count").read_text() == "20"
    assert "--results my results" in lines(repo, "rendered")[0]


# --- mistakes: one message each, before anything runs ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reports/toy_pnog.html"], "unknown target 'toy_pnog' (did you mean 'toy_pong'"),
        (["toy_pong"], "its page is asked for as reports/toy_pong.html"),
        (["reports/toy_pong"], "its page is asked for as reports/toy_pong.html"),
        (["reports/toy"], "its page is asked for as reports/toy.html"),
        (
            ["reports/toy_pong.html", "--config", "budget=hours"],
            "budget: 'hours' is not allowed (did you mean 'hour'?)",
        ),
        (["reports/toy_ring.html", "--config", "frames=40"], "has no setting training_steps; use a budget"),
    ],
)
def test_mistakes_on_the_command_line(repo, arguments, message, snakemake):
    output = snakemake(repo, *arguments, code=1)
    assert message in output
    assert "Traceback" not in output
    assert "rule train" not in output


def test_a_broken_paper_is_named_by_the_workflow_and_leaves_the_others_usable(repo, snakemake):
    """It comes into the way of a page of its own alone; the others hear a line of it."""
    paper, other = repo / "replications/toy/paper.yaml", repo / "replications/toy_two"
    shutil.copytree(paper.parent, other)
    text = paper.read_text()
    (other / "paper.yaml").write_text(text.replace("paper: toy\n", "paper: toy_two\n", 1))
    paper.write_text(text.replace("    published_reason: not in the paper\n", "", 1))
    said = "toy/paper.yaml: tasks[1] (cartpole): published: none needs a published_reason"
    for page in (
        (),
        ("reports/toy_pong.html",),
        ("reports/toy-no_replay_pong.html",),
    ):  # config.yaml lists toy_pong
        output = snakemake(repo, *page, "-n", code=1)
        assert said in output
        assert "Traceback" not in output
    assert "toy_two_cartpole" in Flow({"targets": ["toy_two_*"]}, paper.parent.parent).config["targets"]
    output = snakemake(repo, "reports/toy_two_pong.html", "-n")
    assert (
        f"{said}: why the paper prints no score for it; until that is mended, there are no pages of toy"
        in output
    )
    assert "replications.toy_two.train" in output
    output = snakemake(repo, "reports/toy_two_pnog.html", "-n", code=1)
    assert "unknown target 'toy_two_pnog' (did you mean 'toy_two_pong'" in output


def test_options_that_contradict_each_other_or_do_nothing_are_said(repo, snakemake):
    order = ("reports/toy_pong.html", "-n", "--config")
    message = snakemake(repo, *order, "budget=smoke", "frames=400000", code=1)
    assert "budget=smoke and frames=400000 are two lengths; leave out one of them" in message
    assert "two lengths" not in snakemake(repo, *order, "budget=smoke", "frames=null")
    message = snakemake(repo, *order, "source=results", "budget=smoke", "seeds=5")
    assert "source=results trains nothing, so this is not used: budget, seeds" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 0}, "seeds: 0 is too small; at least 1"),
        ({"seeds": "many"}, "seeds: 'many' is not allowed; 'auto' or the number of seeds"),
        ({"seeds": True}, "seeds: true is not allowed"),
        ({"seeds": 1.5}, "seeds: 1.5 is not allowed"),
        ({"frames": 0}, "frames: 0 is too small; at least 1"),
        ({"frames": -4}, "frames: -4 is too small"),
        ({"frames": "long"}, "frames: 'long' is not a whole number"),
        ({"sedes": 3}, "unknown key 'sedes' (did you mean 'seeds'?)"),
        ({"device": "gpu"}, "device: 'gpu' is not allowed (did you mean 'cpu'?)"),
        ({"source": "mine"}, "source: 'mine' is not allowed"),
        ({"wandb": "on"}, "wandb: 'on' is not allowed"),
        ({"results": ""}, "results: is empty"),
        ({"results": "a{b}"}, "results: 'a{b}' does not match"),
        (
            {"results": "$NO_SUCH_DISK/runs"},
            "results: $NO_SUCH_DISK/runs: the variable $NO_SUCH_DISK is not set",
        ),
        ({"checkpoints": "~nobody-of-this-name/x"}, "no home is known for ~nobody-of-this-name"),
        ({"fresh": "yes"}, "fresh: 'yes' is not true or false"),
        ({"resume_changed": 1}, "resume_changed: 1 is not true or false"),
        ({"targets": []}, "targets: is empty"),
        ({"targets": "toy pong/x"}, "targets[1]: 'pong/x' does not match"),
    ],
)
def test_mistakes_in_the_configuration(given, message):
    with pytest.raises(UserError) as caught:
        checked_config(given)
    assert message in str(caught.value)


def test_the_command_lines_text_and_numbers_are_put_into_type():
    config = checked_config(
        {"seeds": "3", "frames": "2e6", "targets": "toy_pong,reports/toy_ring.html", "fresh": "True"}
    )
    assert (config["seeds"], config["frames"], config["fresh"]) == (3, 2_000_000, True)
    assert config["targets"] == ["toy_pong", "toy_ring"]
    assert checked_config({"frames": "null"})["frames"] is None
    defaults = {
        "budget": "auto",
        "frames": None,
        "seeds": "auto",
        "device": "auto",
        "source": "own",
        "results": "results",
        "settings": None,
    }
    assert checked_config({}).items() >= defaults.items()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("results/", "results"),
        ("./a//b/../c", "a/c"),
        ("~/runs", "/mine/runs"),
        ("${DISK}/runs/", "/disk/runs"),
    ],
)
def test_folders_are_what_was_meant(given, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/mine")
    monkeypatch.setenv("DISK", "/disk")
    for key in ("results", "checkpoints"):
        assert checked_config({key: given})[key] == meant


def test_config_yaml_says_the_schemas_defaults():
    from common.papers.validation import load_yaml

    assert load_yaml(ROOT / "config.yaml") == checked_config({})


def test_results_that_cannot_be_written(toy, tmp_path):
    (tmp_path / "file").touch()
    flow = Flow({"targets": ["toy_pong"], "results": str(tmp_path / "file" / "deeper")}, toy)
    with pytest.raises(UserError, match="is a file, not a folder; choose another"):
        flow.check([flow.target("toy_pong")])
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        flow.config["results"] = str(tmp_path / "locked" / "deeper")
        with pytest.raises(UserError, match="cannot be written"):
            flow.check([flow.target("toy_pong")])


def test_a_folder_in_which_no_folder_can_be_made_is_refused_at_the_start(toy):
    flow = Flow({"targets": ["toy_pong"], "results": "/proc/nope"}, toy)
    with pytest.raises(UserError, match="results: /proc/nope cannot be written"):
        flow.check([flow.target("toy_pong")])


def test_results_that_are_not_there_are_named_and_no_folder_is_made(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order = {"targets": ["toy_pong"], "source": "results"}
    flow = Flow({**order, "results": "nowhere"}, toy)
    with pytest.raises(UserError, match="results: nowhere: there is no such folder"):
        flow.check([])
    flow = Flow(order, toy)  # nobody named `results`, where runs go
    flow.check([])
    said = flow.announce([flow.target("toy_pong")])
    assert said == "toy_pong: from no run at all: results has none of your own; nothing is trained"
    recorded = papers.recorded_dir("toy", None, "pong", "hour", 1, root=toy) / "run.json"
    recorded.parent.mkdir(parents=True)
    recorded.touch()
    assert "from the recorded runs: results has none of your own" in flow.announce([flow.target("toy_pong")])
    Path("results/toy/pong/hour/seed1").mkdir(parents=True)
    assert "from the runs that are there;" in flow.announce([flow.target("toy_pong")])


def test_a_script_that_calls_no_main_is_named_before_anything_runs(toy):
    flow, script = Flow({"targets": ["toy_pong"]}, toy), toy / "toy" / "train.py"
    flow.check([flow.target("toy_pong")])
    script.write_text(script.read_text().replace("    main()\n", "    pass\n") + "\n\ndef f():\n    main()\n")
    with pytest.raises(UserError, match=r"toy/train\.py does not call main\(\) at its end"):
        flow.check([flow.target("toy_pong")])
    flow.check([flow.target("toy_ring")])  # of another script


def test_every_script_calls_main():
    flow = Flow({})
    for target in {(t.paper, flow._task(t).script): t for t in flow.targets.values()}.values():
        flow.check([target])


# --- targets, sizes, devices ---


def test_every_target_and_run_parses_in_exactly_one_way():
    """By the alternations that the rules use, over every paper there is."""
    flow = Flow({})
    pattern = re.compile(f"reports/(?P<target>{'|'.join(flow.targets)})\\.html")
    runs = re.compile(
        f"results/(?P<agent>{'|'.join(flow.agents)})/(?P<task>{'|'.join(flow.tasks)})/hour/seed1/run.json"
    )
    splits = {name: 0 for name in flow.targets}
    for agent in flow.agents:
        for task in flow.tasks:
            name = f"{agent}_{task}"
            if name in splits and flow.targets[name].agent == agent:
                splits[name] += 1
    assert set(splits.values()) == {1}
    for name, target in flow.targets.items():
        assert pattern.fullmatch(f"reports/{name}.html")["target"] == name
        found = runs.fullmatch(f"results/{target.agent}/{target.task}/hour/seed1/run.json")
        assert (found["agent"], found["task"]) == (target.agent, target.task)
        wildcards = SimpleNamespace(agent=target.agent, task=target.task, size="smoke", seed="1")
        assert flow.run(wildcards)[0].variant.name == (target.variant or "")


PONG = SimpleNamespace(agent="toy", task="pong", size="smoke", seed="1")


def test_sizes_and_seeds_by_device(toy, monkeypatch):
    def sizes(**config):
        flow = Flow({"targets": ["toy_pong"], **config}, toy)
        return {name: (flow.size(t), flow.seeds(t, flow.size(t))) for name, t in flow.targets.items()}, flow

    monkeypatch.setattr("common.workflow.detect_device", lambda: "cpu")
    found, flow = sizes()
    assert found["toy_pong"] == ("hour", 1)
    assert found["toy_cartpole"] == ("hour", 5)
    assert found["toy_ring"] == ("paper", 10)
    assert (flow.gpus(PONG), flow.train_flags(PONG, 1)) == (0, "--device auto")
    found, flow = sizes(device="cuda")
    assert found["toy_pong"] == ("paper", 1)
    assert (flow.gpus(PONG), flow.train_flags(PONG, 1)) == (1, "--device cuda --stop-when-reached")
    assert "until the published score is reached" in flow.announce([flow.target("toy_pong")])
    assert "until" not in flow.announce([flow.target("toy_cartpole")])
    with pytest.raises(UserError, match="device: cuda: no NVIDIA GPU"):
        flow.check_here(jobs_run_here=True)
    flow.check_here(jobs_run_here=False)  # a login node
    found, flow = sizes(budget="smoke", device="cuda", fresh=True)
    assert {size for size, _ in found.values()} == {"smoke"}
    assert {seeds for _, seeds in found.values()} == {1}
    assert [flow.train_flags(PONG, attempt) for attempt in (1, 2)] == [
        "--device cuda --fresh",
        "--device cuda",
    ]
    changed = sizes(resume_changed="True")[1]
    assert [changed.train_flags(PONG, attempt) for attempt in (1, 2)] == [
        "--device auto --resume-changed"
    ] * 2
    assert changed.claims_flags(PONG, 1) == "--resume-changed"
    assert sizes(budget="paper", frames=400, seeds=3)[0]["toy_pong"] == (
        "frames-400",
        3,
    )  # frames win over a budget


def test_the_gpu_is_asked_for_only_on_cuda(repo, snakemake):
    (repo / "slow").touch()
    output = snakemake(repo, "-n", "reports/toy_pong.html", "--config", "device=cuda", "budget=auto")
    assert output.count("gpu=1") == 2
    assert "--budget paper --device cuda --stop-when-reached" in output
    assert lines(repo, "trained") == []


def test_a_script_with_a_device_of_its_own_takes_no_gpu_and_a_core_a_worker(toy, repo, snakemake):
    script = repo / "replications" / "toy" / "train.py"
    text = script.read_text().replace(
        "CAPACITY = 1_000", 'CAPACITY = 1_000\nDEVICE = "cpu"  # its workers are processes'
    )
    script.write_text(
        text.replace("    log_every: int = 10", "    log_every: int = 10\n    workers: int = 3")
    )
    ring = script.with_name("ring.py")
    ring.write_text(
        ring.read_text().replace("    states: int = 8", '    states: int = 8\n    workers: str = "1,6,2"')
    )
    flow = Flow({"targets": ["toy_pong"], "device": "cuda"}, script.parent.parent)
    assert (flow.gpus(PONG), flow.needs.threads(PONG)) == (0, 3)
    assert (flow.train_flags(PONG, 1), flow.evaluation_flags(PONG)) == ("--device cpu", "--device cpu")
    assert flow.size(flow.target("toy_pong")) == "hour"  # as without a GPU
    assert "on cpu" in flow.announce([flow.target("toy_pong")])
    assert flow.needs.threads(SimpleNamespace(agent="toy", task="ring", size="smoke", seed="1")) == 6
    output = snakemake(repo, "-n", "--cores", "8", "reports/toy_pong.html", "--config", "device=cuda")
    assert "gpu=1" not in output
    assert output.count("threads: 3") == 1
    assert "--seed 1 --budget smoke --device cpu --threads 3" in output
    for name, gpus, threads in (("a3c", 0, 16), ("dqn", 1, 4)):  # and the real ones
        flow = Flow({"targets": [f"{name}_pong"], "device": "cuda"})
        wildcards = SimpleNamespace(agent=name, task="pong", size="paper", seed="1")
        assert (flow.gpus(wildcards), flow.needs.threads(wildcards)) == (gpus, threads)


def test_torch_for_cuda_is_told_by_its_version_file(monkeypatch, tmp_path):
    (tmp_path / "__init__.py").touch()
    monkeypatch.setattr(
        devices.importlib.util, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    for text, expected in [
        ("cuda: Optional[str] = None\n", False),
        ("cuda: Optional[str] = '13.0'\n", True),
        ('cuda = "12.6"\n', True),
        ("cuda_x = '1'\n", False),
    ]:
        (tmp_path / "version.py").write_text(text)
        assert devices.torch_has_cuda() is expected


def test_each_training_takes_a_gpu_of_its_own(tmp_path):
    code = """
import os
from common.runs.devices import claim_gpu
print(claim_gpu(), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
input()
"""

    def claim(visible: str) -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(CUDA_VISIBLE_DEVICES=visible, TMPDIR=str(tmp_path)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return process, process.stdout.readline().strip()

    held = [claim("3,GPU-ab/1") for _ in range(8)]  # beyond one a GPU they go round
    assert [text for _, text in held] == ["0 3", "1 GPU-ab/1"] * 4
    held += [claim("5"), claim("")]
    assert [text for _, text in held[8:]] == ["0 5", "None"]
    held[0][0].communicate("\n")  # ends, and frees its place
    again, text = claim("3,GPU-ab/1")
    assert text == "0 3"
    for process in [again, *(process for process, _ in held[1:])]:
        process.communicate("\n")


# --- form ---


def test_lint_and_format(snakemake):
    assert "Lints for" not in snakemake(ROOT, "--lint")  # what it says of a good one is quiet
    subprocess.run(
        [SNAKEMAKE.parent / "snakefmt", "--check", "Snakefile"], cwd=ROOT, check=True, capture_output=True
    )
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 220


@pytest.mark.parametrize(
    "profile", sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
)
def test_profiles_hold_options_that_snakemake_knows(profile, snakemake):
    from common.papers.validation import load_yaml

    known = set(re.findall(r"(?<=--)[a-z][a-z-]+", snakemake(ROOT, "--help")))
    plugins = ("slurm-", "kubernetes-")
    settings = load_yaml(ROOT / "profiles" / profile / "config.yaml")
    assert [key for key in settings if key not in known and not key.startswith(plugins)] == []
    assert settings["rerun-triggers"] == [
        "mtime",
        "input",
        "params",
    ]  # `code` would train again for a comment
    for extra in settings.get("configfile", ()):
        checked_config(load_yaml(ROOT / extra))
