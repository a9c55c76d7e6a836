"""Mirrors a run's curve to Weights & Biases. `curve.csv` is the truth; nothing that goes wrong here stops a run.

Offline unless the environment variable WANDB_MODE says otherwise: `online`, or `disabled` for no mirror at all. Offline
runs lie in `<run folder>/wandb`; `wandb leet <folder>` shows one in the terminal, `wandb sync <folder>` uploads it.
"""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError, suggestion
from common.say import say
from common.surroundings import make_a_home

PROJECT = "deep-rl-replications"
MODES = ("offline", "online", "disabled")
# The dashboard's sections; columns that a script adds go to `losses` or `charts` by their name.
SECTIONS = {
    "eval_score": "evaluation/score", "eval_episodes": "evaluation/episodes", "mean_max_q": "evaluation/mean_max_q",
    "train_score_100": "charts/train_score_100", "epsilon": "charts/epsilon", "learning_rate": "charts/learning_rate",
    "loss": "losses/loss", "entropy": "losses/entropy", "approx_kl": "losses/approx_kl", "clip_fraction": "losses/clip_fraction",
    "agent_steps": "progress/agent_steps", "updates": "progress/updates", "episodes": "progress/episodes",
    "hours": "progress/hours", "steps_per_second": "system/steps_per_second",
}  # fmt: skip
# the longest that wandb may take: to start, to upload at the end, to answer any other call
INIT_SECONDS, UPLOAD_SECONDS, CALL_SECONDS = 15, 60, 10
BURST = 30  # rows beyond one a second: evaluation phases of a small run follow each other quickly


def mode() -> str:
    """What WANDB_MODE asks for. UserError for a word that it does not know, which would be no mirror, silently."""
    asked = os.environ.get("WANDB_MODE") or MODES[0]
    if asked not in MODES:
        raise UserError(
            f"WANDB_MODE={asked} is not allowed{suggestion(asked, MODES)}; or leave it unset, for {MODES[0]}"
        )
    return asked


def metric(column: str) -> str:
    """A column's name on the dashboard: `section/column`; `frames`, the x axis, has no section."""
    if column == "frames" or "/" in column:
        return column
    return SECTIONS.get(column) or f"{'losses' if column.endswith('_loss') else 'charts'}/{column}"


def identity(
    paper: str, variant: str | None, task: str, size: str, seed: int, settings: dict, settings_key: str
) -> dict[str, Any]:
    """How a run is called there: its seeds share a group; paper, task, size and seed are tags and configuration, so that
    runs can be grouped by any of them.
    """
    agent = f"{paper}-{variant}" if variant else paper
    name = f"{agent}_{task}"
    return {
        "name": f"{name}-{size}-seed{seed}",
        "group": f"{name}-{size}",
        "tags": [paper, *([variant] if variant else []), task, size, f"seed{seed}"],
        "config": settings | {"paper": paper, "variant": variant, "task": task, "size": size, "seed": seed},
        "run_id": f"{name}-{size}-{seed}-{settings_key}".replace("_", "-"),
    }


def start(
    run_dir: Path,
    *,
    name: str,
    group: str,
    tags: list[str],
    config: dict,
    run_id: str,
    history: list[dict] | None = None,
) -> Tracker:
    """Opens the mirror of a run. Never raises but for a WANDB_MODE that is none, never prompts; the tracker of a failed start swallows everything.

    history: the rows before a resume. Logged again, since of an offline run's parts the last one uploaded wins.
    """
    asked = mode()
    if asked == "disabled":
        return Tracker(None)
    run = None
    for attempt in dict.fromkeys([asked, "offline"]):
        try:
            make_a_home(run_dir / "wandb")
            run = _init(attempt, run_dir, name=name, group=group, tags=tags, config=config, id=run_id)
            break
        except (Exception, SystemExit) as error:  # whatever it is, the run matters more
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            say(f"wandb: {attempt} failed ({reason}); training goes on")
            _quietly(_teardown)
    tracker = Tracker(run, CALL_SECONDS if attempt == "offline" else UPLOAD_SECONDS + CALL_SECONDS)
    for row in history or []:
        tracker.send(row)
    return tracker


def _init(mode: str, run_dir: Path, **options):
    import wandb

    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no API key; set WANDB_API_KEY or call `wandb login`")
    settings = wandb.Settings(
        init_timeout=INIT_SECONDS,
        finish_timeout=UPLOAD_SECONDS,
        silent=mode == "offline",
        console="off",  # the job's log has it
        save_code=False,
    )
    run = wandb.init(
        project=PROJECT, dir=str(run_dir), mode=mode, resume="allow", settings=settings, **options
    )
    run.define_metric("frames")
    run.define_metric("*", step_metric="frames")
    return run


def _teardown() -> None:
    import wandb

    wandb.teardown()


def _kill_service() -> None:
    """Ends wandb's helper processes: one that hangs would keep this process from exiting."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            if child.name().startswith("wandb"):
                child.kill()
        except psutil.Error:
            pass


def _quietly(call: Callable[[], object], seconds: float = CALL_SECONDS) -> BaseException | None:
    """`call()`, waited for so long and no longer; returns what went wrong."""
    failure: list[BaseException] = [TimeoutError(f"no answer in {seconds:g} s")]

    def work() -> None:
        try:
            call()
            failure.clear()
        except BaseException as error:  # wandb.teardown calls sys.exit when its helper has died
            failure[:] = [error]

    thread = threading.Thread(target=work, daemon=True, name="wandb mirror")
    thread.start()
    thread.join(seconds)
    return failure[0] if failure else None


class Tracker:
    """One run's mirror. Rows are dicts of curve columns, `frames` among them; None values are left out."""

    def __init__(self, run, finish_seconds: float = CALL_SECONDS):
        self._run, self._finish_seconds = run, finish_seconds
        self._allowance, self._then = float(BURST), time.monotonic()
        self._held: dict | None = None

    def log(self, row: dict) -> None:
        """Mirrors a row. Of more than one a second in the long run, some are left out; never the last."""
        if self._run is None:
            return
        now = time.monotonic()
        self._allowance, self._then = min(self._allowance + now - self._then, BURST), now
        if self._allowance < 1:
            self._held = row
            return
        self._allowance -= 1
        self._held = None
        self.send(row)

    def send(self, row: dict) -> None:
        """Mirrors a row at once."""
        if self._run is None:
            return
        # never `step=`: it goes backwards after a resume, and wandb drops such rows
        values = {metric(name): value for name, value in row.items() if value is not None}
        self._attempt(lambda: self._run.log(values), CALL_SECONDS)

    def videos(self, run_dir: Path) -> dict[str, Any]:
        """The videos there are, as values to send."""
        if self._run is None:
            return {}
        import wandb

        files = {"video/median": run_dir / "episode.mp4", "video/best": run_dir / "best.mp4"}
        found: dict[str, Any] = {}

        def read() -> None:
            for name, path in files.items():
                if path.is_file() and path.stat().st_size:
                    found[name] = wandb.Video(str(path), format="mp4")

        self._attempt(read, CALL_SECONDS)
        return found

    def finish(self) -> None:
        """Closes the mirror; waits at most a minute for an upload."""
        if self._run is None:
            return
        if self._held:
            self.send(self._held)
        self._attempt(lambda: self._run.finish(), self._finish_seconds)
        self._run = None

    def _attempt(self, call: Callable[[], object], seconds: float) -> None:
        if self._run is not None and (error := _quietly(call, seconds)):
            say(f"wandb: {type(error).__name__}: {error}; the mirror ends here, training goes on")
            self._run = None
            _kill_service()
            _quietly(_teardown)


def final(run_dir: Path) -> None:
    """Mirrors the final evaluation of a finished run, and its videos, into the run's own page. Never raises."""
    try:
        run = json.loads((run_dir / "run.json").read_text())
        evaluation = json.loads((run_dir / "evaluation.json").read_text())
        with open(run_dir / "curve.csv", newline="") as file:
            history = [
                {name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)
            ]
        names = ("paper", "variant", "task", "seed", "settings", "settings_key")
        who = identity(size=run["budget"], **{name: run[name] for name in names})
        row = {"frames": run["progress"]["frames"], "evaluation/final_score": evaluation["score"]}
        row["evaluation/final_episodes"] = len(evaluation["episodes"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        say(f"wandb: the evaluation is not mirrored ({type(problem).__name__}: {problem})")
        return
    tracker = start(run_dir, **who, history=history)
    tracker.send(row | tracker.videos(run_dir))
    tracker.finish()
