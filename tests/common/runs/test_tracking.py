"""The wandb mirror: what it writes can be read back, and nothing that goes wrong with it reaches the run."""

import builtins
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.evaluation.video import write_mp4
from common.runs import tracking
from tests.training import wait_for

ROOT = Path(__file__).parents[3]
RUN = {
    "name": "dqn_pong-smoke-seed1",
    "group": "dqn_pong-smoke",
    "tags": ["dqn"],
    "run_id": "dqn-pong-smoke-1-abc",
}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Neither a key nor a mode from the machine that runs the tests."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "home").mkdir()


def start(folder, **options):
    folder.mkdir(exist_ok=True)
    return tracking.start(folder, **(RUN | {"config": {"training_steps": 100}} | options))


def read_back(folder) -> list[list[dict]]:
    """The history rows of each offline part, in order of start."""
    parts = []
    for path in sorted((folder / "wandb").glob("offline-run-*"), key=lambda p: p.stat().st_mtime):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(written(path))]
        lines = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout.splitlines()
        parts.append([json.loads(line) for line in lines])
    return parts


def written(folder: Path) -> Path:
    """wandb's process writes the file in its own time."""
    assert wait_for(lambda: any(folder.glob("*.wandb")), 90), list(folder.iterdir())
    return next(folder.glob("*.wandb"))


def history(records: list[dict]) -> list[dict]:
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]


class FakeRun:
    def __init__(self, log=None, finish=None):
        self.rows, self._log, self._finish = [], log, finish

    def log(self, row):
        if self._log:
            self._log()
        self.rows.append(row)

    def finish(self):
        if self._finish:
            self._finish()


def alone(code: str) -> str:
    """What a process of its own prints, as in life: wandb keeps one helper a process, and other tests' runs in it."""
    code = f"from pathlib import Path\nfrom common.runs import tracking\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def attempt(folder: Path, rows: list[dict], past: list[dict] | None = None) -> str:
    """One attempt of a run; returns what it printed."""
    folder.mkdir(exist_ok=True)
    options = RUN | {"config": {"training_steps": 100}, "history": past or []}
    return alone(f"""
mirror = tracking.start(Path({str(folder)!r}), **{options!r})
for row in {rows!r}:
    mirror.log(row)
mirror.finish()
""")


def test_offline_by_default_and_a_resumed_part_is_whole(tmp_path):
    first = attempt(tmp_path / "run", [{"frames": 400, "eval_score": -20.5, "loss": None, "epsilon": 0.9}])
    again = attempt(
        tmp_path / "run", [{"frames": 800, "eval_score": 3.0}], [{"frames": 400.0, "eval_score": -20.5}]
    )
    assert "failed" not in first + again

    parts = read_back(tmp_path / "run")
    old, new = {"frames": 400, "evaluation/score": -20.5}, {"frames": 800, "evaluation/score": 3}
    assert [history(part) for part in parts] == [[old | {"charts/epsilon": 0.9}], [old, new]]
    for part in parts:
        run = next(record["run"] for record in part if record["type"] == "run")
        assert (run["run_id"], run["run_group"], run["tags"]) == (RUN["run_id"], RUN["group"], RUN["tags"])
        assert run["config"]["update"]["training_steps"] == 100
        assert any(record.get("metric", {}).get("step_metric") == "frames" for record in part)


def test_the_final_evaluation_its_videos_and_another_papers_columns(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run = {
        "paper": "ppo",
        "variant": None,
        "task": "ms_pacman",
        "budget": "hour",
        "seed": 3,
        "settings": {"num_envs": 8},
    }
    run |= {"settings_key": "abc", "progress": {"frames": 800}}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "evaluation.json").write_text(json.dumps({"score": 2.5, "episodes": [{"score": 2.5}]}))
    (folder / "curve.csv").write_text("frames,eval_score,value_loss,clip_fraction,odd\n400,,0.5,0.1,7\n")
    write_mp4(folder / "episode.mp4", [np.zeros((16, 16, 3), np.uint8)] * 15)
    mirror_it = f"tracking.final(Path({str(folder)!r}))"
    assert "wandb:" not in alone(mirror_it)
    (part,) = read_back(folder)
    first, last = history(part)
    assert first == {"frames": 400, "losses/value_loss": 0.5, "losses/clip_fraction": 0.1, "charts/odd": 7}
    assert (last["frames"], last["evaluation/final_score"], last["evaluation/final_episodes"]) == (
        800,
        2.5,
        1,
    )
    assert "video/median" in str(last)
    assert len(list(folder.glob("wandb/offline-run-*/files/media/**/*.mp4"))) == 1
    (who,) = [record["run"] for record in part if record["type"] == "run"]
    assert (who["run_group"], who["tags"]) == ("ppo_ms_pacman-hour", ["ppo", "ms_pacman", "hour", "seed3"])
    asked = ("paper", "task", "size", "seed", "num_envs")
    assert [who["config"]["update"][name] for name in asked] == ["ppo", "ms_pacman", "hour", 3, 8]
    (folder / "evaluation.json").write_text("{")
    assert "not mirrored" in alone(mirror_it)  # a mirror never fails an evaluation


def test_seeds_share_a_group_and_variants_have_their_own():
    one, two = (tracking.identity("dqn", "no_replay", "pong", "paper", seed, {}, "k") for seed in (1, 2))
    assert one["group"] == two["group"] == "dqn-no_replay_pong-paper"
    assert one["run_id"] != two["run_id"]
    assert one["tags"] == ["dqn", "no_replay", "pong", "paper", "seed1"]


def test_online_without_a_key_goes_on_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    said = attempt(tmp_path / "run", [{"frames": 4}])
    assert "online failed" in said
    assert "WANDB_API_KEY" in said
    assert history(read_back(tmp_path / "run")[0]) == [{"frames": 4}]


@pytest.mark.slow
def test_online_without_a_network_goes_on_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    said = attempt(tmp_path / "run", [{"frames": 4}])
    assert time.monotonic() - began < 60
    assert "online failed" in said


def test_absent_package(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def importing(name, *arguments, **options):
        if name.split(".")[0] == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", importing)
    tracker = start(tmp_path / "run", history=[{"frames": 1}])
    tracker.log({"frames": 4})
    tracker.finish()
    assert "ModuleNotFoundError" in capsys.readouterr().out


def test_disabled_does_not_even_import_it(tmp_path):
    code = (
        "import os, sys; os.environ['WANDB_MODE'] = 'disabled'; from common.runs import tracking\n"
        "options = dict(name='n', group='g', tags=[], config={}, run_id='i', history=[{'frames': 1}])\n"
        f"t = tracking.start({str(tmp_path)!r}, **options)\n"
        "t.log({'frames': 2}); t.finish(); print('wandb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
    assert list(tmp_path.glob("wandb")) == []


def test_failed_write_ends_the_mirror_only(capsys):
    def fail():
        raise OSError(28, "No space left on device")

    run = FakeRun(log=fail)
    tracker = tracking.Tracker(run)
    tracker.log({"frames": 1})
    tracker.log({"frames": 2})
    tracker.finish()
    assert capsys.readouterr().out.count("No space left on device") == 1


def test_hanging_call_is_left_behind(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "CALL_SECONDS", 0.2)
    tracker = tracking.Tracker(FakeRun(log=lambda: time.sleep(3)))
    began = time.monotonic()
    tracker.log({"frames": 1})
    tracker.finish()
    assert time.monotonic() - began < 2
    assert "no answer in 0.2 s" in capsys.readouterr().out


def test_hanging_end_is_left_behind(capsys):
    tracker = tracking.Tracker(FakeRun(finish=lambda: time.sleep(3)), finish_seconds=0.2)
    began = time.monotonic()
    tracker.finish()
    assert time.monotonic() - began < 2
    assert "mirror ends here" in capsys.readouterr().out


def test_at_most_one_row_a_second_in_the_long_run(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(tracking, "_quietly", lambda call, seconds=0: call())
    run = FakeRun()
    tracker = tracking.Tracker(run)
    for i in range(1000):  # a hundred seconds at ten rows a second
        clock[0] = i / 10
        tracker.log({"frames": i})
    assert tracking.BURST <= len(run.rows) <= tracking.BURST + 101
    tracker.finish()
    assert run.rows[-1] == {"frames": 999}  # the newest is never lost
