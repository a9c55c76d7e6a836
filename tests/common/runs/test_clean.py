"""What common.runs.clean removes, and above all what it does not."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.runs.clean import ASIDE, CHECKPOINTS, FINISHED, HALF, LOGS, RESULTS, WANDB, clean

ROOT = Path(__file__).parents[3]


def write(path: Path, size: int = 10_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def make_run(results: Path, seed: int, finished: bool, agent: str = "dqn", size: str = "hour") -> Path:
    run = results / agent / "pong" / size / f"seed{seed}"
    write(run / "checkpoint" / ".lock", 5)
    write(run / "checkpoint" / "step-000000000500" / "state.safetensors", 500_000)
    write(run / "checkpoint" / "live" / "curve.csv")
    write(run / "checkpoint" / "stale-1" / "step-000000000100" / "state.safetensors", 300_000)
    write(run / "wandb" / "offline-run-1" / "run.wandb", 40_000)
    write(run / ".run.json.tmp", 7_000)
    if finished:
        for name in FINISHED:
            write(run / name, 100)
    return run


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def test_finished_run_keeps_its_results_only(tmp_path):
    run = make_run(tmp_path / "results", 1, finished=True)
    report = clean(tmp_path / "results")
    assert tree(run) == {*FINISHED, "checkpoint/.lock"}
    assert (run / "checkpoint" / "live").is_dir()
    assert dict(report.count) == {CHECKPOINTS: 2, ASIDE: 1, WANDB: 1, HALF: 1}
    assert 500_000 <= report.size[CHECKPOINTS] <= 560_000
    assert 300_000 <= report.size[ASIDE] <= 330_000
    assert clean(tmp_path / "results").count == {}


@pytest.mark.parametrize("missing", FINISHED)
def test_unfinished_run_keeps_its_checkpoint(tmp_path, missing):
    run = make_run(tmp_path / "results", 1, finished=True)
    (run / missing).unlink()
    write(run / "checkpoint" / ".step-000000000900.tmp" / "state.json")
    clean(tmp_path / "results")
    assert tree(run) == (set(FINISHED) - {missing}) | {
        "checkpoint/.lock",
        "checkpoint/step-000000000500/state.safetensors",
        "checkpoint/live/curve.csv",
    }


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_run_in_progress_is_not_touched(tmp_path, finished, everything):
    busy, idle = (make_run(tmp_path / "results", seed, finished) for seed in (1, 2))
    before = tree(busy)
    with open(busy / "checkpoint" / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = clean(tmp_path / "results", everything=everything)
    assert tree(busy) == before
    assert any("in progress" in line and str(busy) in line for line in report.kept)
    assert not (idle / "checkpoint" / "stale-1").exists()
    assert clean(tmp_path / "results").count[ASIDE] == 1  # the lock was given back: now it can be cleaned


def test_all_removes_results_and_empty_folders_above(tmp_path):
    make_run(tmp_path / "results", 1, finished=True)
    make_run(tmp_path / "results", 2, finished=False, agent="dqn-no_replay", size="frames-4000")
    mine = write(tmp_path / "results" / "notes.txt")
    report = clean(tmp_path / "results", everything=True)
    assert tree(tmp_path / "results") == {"notes.txt"}
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["notes.txt"]
    assert report.count[RESULTS] == 2
    assert mine.exists()


@pytest.mark.parametrize("everything", [False, True])
def test_dry_run_removes_nothing_and_counts_the_same(tmp_path, everything):
    make_run(tmp_path / "results", 1, finished=True)
    before = tree(tmp_path)
    planned = clean(tmp_path / "results", everything=everything, dry_run=True)
    assert tree(tmp_path) == before
    done = clean(tmp_path / "results", everything=everything)
    assert (planned.count, planned.size) == (done.count, done.size)
    assert "would remove" in planned.text(True)


def test_links_are_not_followed(tmp_path):
    outside = make_run(tmp_path / "elsewhere", 1, finished=True)
    before = tree(outside)
    run = make_run(tmp_path / "results", 1, finished=True)
    (run.parent / "seed2").symlink_to(outside)  # a run
    (run / "checkpoint" / "stale-2").symlink_to(outside)  # a checkpoint
    (run / "checkpoint" / "stale-1" / "inner").symlink_to(outside)  # inside what is removed
    (run / "wandb" / "latest-run").symlink_to(outside)
    (tmp_path / "results" / "ppo").symlink_to(tmp_path / "elsewhere" / "dqn")
    other = make_run(tmp_path / "results", 3, finished=True)
    (other / "checkpoint").rename(tmp_path / "moved")
    (other / "checkpoint").symlink_to(tmp_path / "moved")
    moved = tree(tmp_path / "moved")
    clean(tmp_path / "results")
    assert not (run / "checkpoint" / "stale-2").is_symlink()  # the link itself goes
    clean(tmp_path / "results", everything=True)
    assert tree(outside) == before
    assert tree(tmp_path / "moved") == moved


def test_results_folder_may_itself_be_a_link(tmp_path):
    run = make_run(tmp_path / "scratch", 1, finished=True)
    (tmp_path / "results").symlink_to(tmp_path / "scratch")
    clean(tmp_path / "results")
    assert not (run / "checkpoint" / "stale-1").exists()


def test_recorded_runs_are_refused(tmp_path):
    recorded = tmp_path / "replications" / "dqn" / "recorded"
    run = make_run(recorded, 1, finished=True, agent="base")
    before = tree(run)
    for folder in (recorded, recorded / "base"):
        with pytest.raises(UserError, match="recorded"):
            clean(folder, everything=True)
    for folder in (recorded.parent, recorded.parent.parent):
        assert clean(folder, everything=True).count == {}
    assert tree(run) == before
    inside = make_run(tmp_path / "results", 1, finished=True, agent="recorded")
    assert clean(tmp_path / "results", everything=True).count == {}
    assert inside.exists()


def test_snakemake_logs_go_unless_it_runs(tmp_path):
    old = write(tmp_path / ".snakemake" / "log" / "old.snakemake.log")
    log = write(tmp_path / "logs" / "train" / "dqn_pong.log")
    metadata = write(tmp_path / ".snakemake" / "metadata" / "abc")
    lock = write(tmp_path / ".snakemake" / "locks" / "0.output.lock", 3)
    assert "--unlock" in clean(tmp_path / "results", workflow=tmp_path).kept[0]
    assert old.exists()
    lock.unlink()
    report = clean(tmp_path / "results", workflow=tmp_path)
    assert not old.exists()
    assert not log.exists()
    assert metadata.exists()  # what Snakemake knows of the parameters a result was made with
    assert report.count == {LOGS: 2}


def test_strange_folders(tmp_path):
    assert clean(tmp_path / "absent").count == {}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        clean(tmp_path / "file")
    mine = write(
        tmp_path / "results" / "My Notes" / "pong" / "hour" / "seed1" / "checkpoint" / "stale-1" / "x"
    )
    clean(tmp_path / "results", everything=True)
    assert mine.exists()


def test_command_line(tmp_path):
    run = make_run(tmp_path / "results", 1, finished=True)
    command = [sys.executable, "-m", "common.runs.clean", "--results", str(tmp_path / "results")]
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    dry = subprocess.run(
        [*command, "--dry-run"], capture_output=True, text=True, cwd=tmp_path, env=env, check=True
    )
    assert "would remove" in dry.stdout
    assert (run / "wandb").exists()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=True)
    assert done.stdout == dry.stdout.replace("would remove", "removed")
    assert not (run / "wandb").exists()
