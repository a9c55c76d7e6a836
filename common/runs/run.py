"""One training run: its folder, logs, checkpoints, signals, progress line, and the outputs at its end.

A script's loop calls `resume` once, `tick` each agent step, `evaluate` and `log_*` when something happened, `finish` at the end.
The recipe that survives every kill: a lock on the folder; checkpoints in a folder that no workflow rule declares; a key of the
settings and the code; outputs written last, by rename, and kept until then so that a finished run can write them again.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import dataclasses
import datetime
import fcntl
import hashlib
import importlib
import io
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.torch import save as save_tensors

from common import papers
from common.environments.vector import ReplayableEnvs, Step
from common.errors import UserError, disk_error, run_main
from common.evaluation.protocol import Policy, evaluation_phase
from common.files import fsync_folder, write_file, write_json
from common.learning.layers import make_deterministic
from common.runs.checkpoint import Checkpoints, get_state, set_state
from common.runs.devices import claim_gpu

ROOT = Path(__file__).resolve().parents[2]
STOPPED = 75  # exit code after a signal: saved, start again to go on
SAVE_EVERY = 300  # seconds
LINE_EVERY = 10  # seconds
TICK_EVERY = 5  # seconds between the ticks of a script whose workers train on their own
CHECKPOINT_GB = 0.1  # of disk, one checkpoint of a million transitions and a Nature network; measured: 0.06
MEMORY_GB = 1.2  # beside the frames: Python, PyTorch, network, optimiser
LOGS = {
    "curve.csv": (
        "agent_steps", "frames", "updates", "episodes", "epsilon", "eval_score", "eval_episodes", "train_score_100", "loss",
        "mean_max_q", "learning_rate",
    ),
    "episodes.csv": ("episode", "agent_steps", "frames", "score", "length"),
    "timing.csv": ("agent_steps", "seconds", "steps_per_second"),
}  # fmt: skip
OUTPUTS = ("curve.csv", "episodes.csv", "timing.csv", "model.safetensors", "run.json")  # run.json last
# What the numbers of a run depend on, beside the script itself. Comments and docstrings do not count.
CODE = (
    "environments/atari",
    "runs/checkpoint",
    "environments/vector",
    "evaluation/protocol",
    "learning/layers",
    "learning/replay",
    "learning/replay_on_device",
    "learning/batch",
)
CODE_OF_SOME = ("priorities", "workers")  # counted for the scripts that import it


class Run:
    """The plumbing of one training; nothing of any paper is in here."""

    def __init__(
        self, resolved: papers.Resolved, seed: int, *, device: str, threads: int, results: Path, command: str = "",
        stop_when_reached: bool = False, resume_changed: bool = False,
    ):  # fmt: skip
        self.resolved, self.seed, self.command, self.threads = resolved, seed, command, threads
        self.paper, self.task, self.size = resolved.paper, resolved.task, resolved.budget
        self.variant = resolved.variant.name or None
        self.device, self.stop_when_reached, self.resume_changed = (
            torch.device(device),
            stop_when_reached,
            resume_changed,
        )
        self.frames_per_step, self.settings = resolved.frames_per_agent_step, resolved.settings
        self.folder = papers.run_dir(self.paper.name, self.variant, self.task.name, self.size, seed, results)
        self.work = self.folder / "checkpoint"
        self.live = self.work / "live"
        self.settings_key = papers.settings_key(resolved, seed)
        self.provenance = self._provenance()  # of the start: files may change while a run goes on
        parts = (self.provenance[name] or "" for name in ("code_sha256", "lock_sha256", "rom_sha256"))
        self.key = f"{self.settings_key}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"
        self.checkpoints = Checkpoints(self.work, self.key)
        self.outputs = OUTPUTS
        self.notes: list[str] = []
        self.recent: deque[float] = deque(maxlen=100)
        self.tracker = None
        self._parts: dict[str, Any] = {}
        self._files: dict[str, Any] = {}
        self._lock: Any = None
        # The text of each log so far; `checkpoint/live/` holds a copy to look at
        self.heads = LOGS | {"curve.csv": LOGS["curve.csv"] + curve_columns(self.paper.name)}
        self._logs = {name: bytearray(",".join(head) + "\n", "utf-8") for name, head in self.heads.items()}
        self._seconds_before, self._attempts, self._evaluation_seconds, self._saves = 0.0, 1, 0.0, 0
        self._stop: int | None = None
        self._reached_in_a_row = 0
        self._line_rate = 0.0

    # --- starting ---

    def open(self, fresh: bool = False) -> bool:
        """Takes the folder's lock, waiting for whoever holds it; True if the run is finished already and was written again."""
        try:
            self.live.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.work / ".lock", "a+")  # noqa: SIM115 (held as long as the run)
        except OSError as problem:
            raise UserError(
                f"{self.folder} cannot be written ({problem.strerror}); choose another --results folder"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            say(
                f"{self.folder} is in use by process {self._lock.read().strip() or '?'}; waiting until it ends"
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # only informs; a full disk must not end here
            os.ftruncate(self._lock.fileno(), 0)
            os.write(self._lock.fileno(), str(os.getpid()).encode())
        self._finish_putting_aside()
        if fresh:
            self._put_aside("--fresh was given")
        done = self._read_done()
        if done is not None and done["key"] == self.key:
            if done.get("stopped") != "reached" or self.stop_when_reached:
                self._write_outputs()
                self._clean_up()
                return True
            self._put_aside(
                "the earlier run ended when it had reached the published score, and now the whole length is asked for"
            )
        found = ({done["key"]} if done else set()) | self.checkpoints.keys()
        same_settings = {key for key in found if key.startswith(self.settings_key)}
        if found and self.key not in found:
            old = sorted(same_settings or found)[0]
            what = "code, packages (uv.lock) or ROM" if same_settings else "settings"
            if same_settings and self.resume_changed:
                self.checkpoints.also = same_settings
                self.notes.append(f"resumed on purpose although {what} changed (key {old}, now {self.key})")
                say(self.notes[-1])
            else:
                fix = "; --resume-changed goes on from a checkpoint all the same" if same_settings else ""
                self._put_aside(f"{what} changed since (key {old}, now {self.key}){fix}")
        return False

    def close(self) -> None:
        """Lets go of the folder, after the checkpoint that is being written."""
        with contextlib.suppress(UserError):
            self.checkpoints.wait()
        for file in [*self._files.values(), *([self._lock] if self._lock else [])]:
            with contextlib.suppress(OSError):  # what a full disk has no room for
                file.close()

    def _read_done(self) -> dict | None:
        try:
            try:
                text = (self.work / "done" / "done.json").read_text()
            except FileNotFoundError:
                return None
            done = json.loads(text)
            if set(done["sha256"]) != set(self.outputs):
                raise ValueError(
                    f"done.json names {', '.join(sorted(done['sha256']))[:200]}, not {', '.join(self.outputs)}"
                )
            for name, checksum in done["sha256"].items():
                if hashlib.sha256((self.work / "done" / name).read_bytes()).hexdigest() != checksum:
                    raise ValueError(f"{name} does not match its checksum")
            return {"key": str(done["key"]), "stopped": done.get("stopped")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
            self._put_aside(f"the finished run in {self.work / 'done'} is torn ({problem})")
            return None

    def _put_aside(self, why: str) -> None:
        """Moves everything of an earlier run out of the way; deletes nothing."""
        things = [p for p in self.work.iterdir() if p.name != ".lock" and not p.name.startswith("stale-")]
        if not any(p.name.startswith(("step-", "done")) for p in things):
            return
        (self.work / ".aside").mkdir()  # from here on the next start goes on with it, should this one end
        aside = self._finish_putting_aside()
        say(f"starting over: {why}. The earlier run was put aside in {aside}")

    def _finish_putting_aside(self) -> Path | None:
        """Moves what is left of an earlier run into `.aside`, which then gets its name: frames and checkpoints stay together."""
        collected, number = self.work / ".aside", 1
        if not collected.is_dir():
            return None
        for thing in list(self.work.iterdir()):
            known = thing.name in (".lock", ".aside") or thing.name.startswith("stale-")
            if not known and not (collected / thing.name).exists():  # `live` may have been made anew by now
                thing.rename(collected / thing.name)
        while (aside := self.work / f"stale-{number}").exists():
            number += 1
        self.live.mkdir(exist_ok=True)
        collected.rename(aside)
        return aside

    def slack(self, capacity: int, num_envs: int) -> int:
        """Slots of the frames' ring beyond the capacity: what can be written between four checkpoints.

        Several environments at once may write so fast that a tenth would mean a checkpoint every few seconds: half.
        """
        return max(capacity // (10 if num_envs == 1 else 2), 300)

    def folder_for_frames(self, envs: ReplayableEnvs) -> Path | None:
        """Where the replay's frames go: a file for screens, memory for small observations.

        Raises UserError when checkpoints refer to frames that are gone; a file that no checkpoint refers to is made anew.
        """
        if envs.obs_dtype != np.uint8:
            return None
        frames = self.work / "frames.bin"
        if not self.checkpoints.all():
            frames.unlink(missing_ok=True)
        elif not frames.exists():
            raise UserError(
                f"{frames}, the replay memory's frames, is missing: this run can only start over; add --fresh"
            )
        return self.work

    def resume(self, **parts: Any) -> bool:
        """Registers everything that has state, and loads the newest whole checkpoint into it if there is one."""
        self._parts = parts
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        replay = parts.get("replay")
        self._slots_between = (
            max((replay.slots - replay.window) // 4, 1)
            if replay is not None and self._on_disk(replay)
            else None
        )
        loaded = self.checkpoints.load()
        if loaded is not None:
            try:
                self._restore(*loaded)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as problem:
                raise UserError(
                    f"the checkpoint in {self.work} does not fit this script ({type(problem).__name__}: {problem}). "
                    "Nothing was changed; --fresh puts it aside and starts over"
                ) from problem
        for name in self._logs:
            self._open_log(name)
        self._began = self._last_line = self._last_save = time.monotonic()
        self._steps_at_line = self._steps_at_start = parts["at"].agent_steps
        self._slots_at_save = self._slots_written()
        self._start_tracker()
        if loaded is None:
            say(self._plan(replay))
        return loaded is not None

    def _restore(self, state: dict, logs: dict[str, bytes]) -> None:
        """Puts a checkpoint's state and logs into this run."""
        for name, part in self._parts.items():
            set_state(part, state[name])
        torch.set_rng_state(torch.from_numpy(state["torch"]))
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(torch.from_numpy(state["cuda"]))
        random.setstate(_tuples(state["python"]))
        clock = json.loads(logs.pop("clock.json"))
        self._seconds_before, self._attempts = clock["seconds"], clock["attempts"] + 1
        self._evaluation_seconds, self._saves = clock["evaluation_seconds"], clock["saves"]
        self.notes, self._reached_in_a_row = clock["notes"] + self.notes, state["reached_in_a_row"]
        now = self._machine()
        if clock["machine"] != now:
            self.notes.append(
                f"resumed on {now} after {clock['machine']}: the same bytes are no longer promised"
            )
            say(self.notes[-1])
        for name in self._logs:
            self._logs[name] = bytearray(logs[name])
        self.recent.extend(float(row["score"]) for row in self._rows("episodes.csv")[-100:])
        say(f"resumed at agent step {self._parts['at'].agent_steps:,} (attempt {self._attempts})")

    @staticmethod
    def _on_disk(replay: Any) -> bool:
        return isinstance(replay.frames, np.memmap)

    def _slots_written(self) -> int:
        return int(self._parts["replay"].written.max()) if self._slots_between else 0

    def _machine(self) -> str:
        """What the bytes of a run depend on beside settings, code, packages and ROM."""
        p = self.provenance
        return f"{self.device.type}, {self.threads} threads, {p['hardware']['gpu'] or p['hardware']['cpu']}, torch {p['versions']['torch']}"

    def _plan(self, replay: Any) -> str:
        """What the run will do and need, printed before it starts."""
        steps = self.settings["training_steps"]
        text = f"{self.paper.name} {self.task.name} seed {self.seed}, size {self.size}: {steps:,} agent steps"
        if self.frames_per_step > 1:
            text += f" ({steps * self.frames_per_step:,} frames)"
        text += f" on {self._machine()}; results in {self.folder}"
        if replay is not None and self._on_disk(replay):
            ring, checkpoints = replay.frames.nbytes / 1e9, 2 * CHECKPOINT_GB
            free = shutil.disk_usage(self.work).free / 1e9  # the ring's space is reserved already
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
            text += (
                f"\nneeds {ring + checkpoints:.1f} GB of disk while it runs ({free:.0f} GB are free beyond the {ring:.1f} GB reserved) "
                f"and up to {ring + MEMORY_GB:.1f} GB of memory (this machine has {memory:.0f} GB)"
            )
            if free < checkpoints:
                raise UserError(
                    f"{self.work} has {free:.2f} GB free, checkpoints need {checkpoints:.1f} GB; free some space or choose another --results folder"
                )
            if ring + MEMORY_GB > memory:
                text += (
                    "\nwarning: the frames do not fit into memory and will be read from disk; that is slow"
                )
        return text

    def say_how_long(self) -> None:
        """Times the script on this machine and prints how long the run will take; nothing where it is soon over."""
        if self.settings["training_steps"] < 50_000:
            return
        from common.runs.estimate import measure, total_seconds

        costs = measure(self.resolved, self.seed, self.device.type, self.threads)
        seconds = total_seconds(costs, self.settings)
        say(
            f"will take about {datetime.timedelta(seconds=round(seconds))} on this machine as it is now: "
            f"{1 / costs.learning:.0f} agent steps/s while learning"
        )

    def _start_tracker(self) -> None:
        from common.runs import tracking

        who = tracking.identity(
            self.paper.name,
            self.variant,
            self.task.name,
            self.size,
            self.seed,
            dict(self.settings),
            self.settings_key,
        )
        history = [{k: float(v) for k, v in row.items() if v} for row in self._rows("curve.csv")]
        self.tracker = tracking.start(self.folder, **who, history=history)

    # --- during training ---

    seconds_between_ticks = TICK_EVERY

    def interrupted(self) -> bool:
        """True after a signal: the next `tick` saves and leaves."""
        return self._stop is not None

    def _on_signal(self, number: int, _frame) -> None:
        self._stop = number

    def tick(self, at: Any) -> None:
        """Once an agent step: the progress line, a checkpoint when one is due, and leaving after a signal."""
        now = time.monotonic()
        if self._stop is not None:
            self._leave()
        if now - self._last_line >= LINE_EVERY:
            self._line(at, now)
        full = self._slots_between and self._slots_written() - self._slots_at_save >= self._slots_between
        if full or now - self._last_save >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Copies the state of every part and writes a checkpoint in the background; one that failed is tried once more."""
        try:
            self.checkpoints.wait()
        except UserError as problem:
            say(f"{problem}. Trying again")
            self._save()
            self.checkpoints.wait()
        self._save()

    def _save(self) -> None:
        at = self._parts["at"]
        self._all_finite()
        state = {name: get_state(part) for name, part in self._parts.items()}
        state["torch"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state()
        state["python"] = list(random.getstate())
        state["reached_in_a_row"] = self._reached_in_a_row
        self._saves += 1
        clock = {
            "seconds": self._seconds(), "attempts": self._attempts, "evaluation_seconds": self._evaluation_seconds,
            "saves": self._saves, "notes": self.notes, "machine": self._machine(),
        }  # fmt: skip
        logs = {name: bytes(text) for name, text in self._logs.items()} | {
            "clock.json": json.dumps(clock).encode()
        }
        flush = self._parts["replay"].flush if "replay" in self._parts else lambda: None
        self.checkpoints.save(at.agent_steps, state, logs, flush)
        self._last_save, self._slots_at_save = time.monotonic(), self._slots_written()

    def _leave(self) -> None:
        name = signal.Signals(self._stop).name
        self.save()
        self.checkpoints.wait()
        self._status("stopped", f"by {name}")
        if self.tracker:
            self.tracker.finish()
        say(
            f"{name}: saved at agent step {self._parts['at'].agent_steps:,}; the same command goes on from there"
        )
        sys.stdout.flush()
        os._exit(STOPPED)

    def check_finite(self, loss_sum: torch.Tensor, at: Any) -> None:
        """Stops the run when the loss is no longer a number; looks every thousand updates, so as not to wait for a GPU."""
        if at.updates % 1000 < self.settings.get("num_envs", 1):
            self._must_be_finite(loss_sum, at)

    def _all_finite(self) -> None:
        """No checkpoint and no result may hold weights that are not numbers."""
        at = self._parts["at"]
        for part in self._parts.values():
            for tensor in part.parameters() if isinstance(part, torch.nn.Module) else []:
                self._must_be_finite(tensor.detach().sum(), at, "a sum of weights")
        for name in ("loss_sum", "shown"):
            if name in self._parts:
                self._must_be_finite(self._parts[name], at)

    def _must_be_finite(self, loss_sum: torch.Tensor, at: Any, what: str = "the loss") -> None:
        if not bool(torch.isfinite(loss_sum).all()):
            self.checkpoints.wait()
            self._status("failed", f"{what} is not a number")
            last = [p.name for p in self.checkpoints.all()[:1]]
            raise UserError(
                f"{what} became {float(loss_sum.sum())} by agent step {at.agent_steps:,} (update {at.updates:,}); "
                f"the last good checkpoint is kept{': ' + str(self.work / last[0]) if last else ''}. Try a smaller learning rate"
            )

    def evaluate(self, policy: Policy, at: Any) -> np.ndarray:
        """One evaluation phase with environments of its own; returns the raw scores of its episodes."""
        script = importlib.import_module(f"replications.{self.paper.name}.train")
        self._all_finite()
        if (
            time.monotonic() - self._last_save > SAVE_EVERY / 5
        ):  # a phase can be long, and nothing is saved during it
            self.save()
        started = time.monotonic()
        self._status("evaluating")

        def check() -> None:  # an evaluation changes nothing, so the state to save is the one before it
            if self._stop is not None:
                self._leave()

        config = script.Config(**self.settings)
        cap = self.resolved.protocol.max_frames
        scores = evaluation_phase(script, config, self.task, policy, self.seed, at.evaluations, cap, check)
        self._evaluation_seconds += time.monotonic() - started
        self._compare(scores)
        return scores

    def _compare(self, scores: Any) -> None:
        """Counts how many phases in a row stand at the published score."""
        best = self.task.published.value if self.task.published else self.task.bar
        at_it = len(scores) > 0 and best is not None and float(np.mean(scores)) >= best
        self._reached_in_a_row = self._reached_in_a_row + 1 if at_it else 0

    def reached(self, at: Any) -> bool:
        """True when the run may end early: two evaluation phases in a row at the published score, where that was asked for."""
        if self.resolved.protocol.score == "last_100_episodes":  # the score would be its own stopping rule
            return False
        return self.stop_when_reached and self._reached_in_a_row >= 2

    # --- logs ---

    def log_episodes(self, at: Any, step: Step) -> int:
        """A row for each episode that ended with this step; returns how many."""
        for k, i in enumerate(np.flatnonzero(step.done)):
            self._append(
                "episodes.csv",
                (
                    at.episodes + 1 + k,
                    at.agent_steps,
                    self._frames(at),
                    _plain(step.scores[i]),
                    int(step.lengths[i]),
                ),
            )
            self.recent.append(
                float(_plain(step.scores[i]))
            )  # as printed, so that a resumed run has the same
        return int(step.done.sum())

    def log_episode(self, at: Any, score: float, length: int) -> int:
        """As `log_episodes`, for one episode that ended in a worker's environment."""
        self._append(
            "episodes.csv", (at.episodes + 1, at.agent_steps, self._frames(at), _plain(score), length)
        )
        self.recent.append(float(_plain(score)))
        return 1

    def log_phase(self, at: Any, scores: np.ndarray | None, **values: float) -> None:
        """A row of the curve: `scores` of the evaluation phase (None: the paper has none) and any other columns of it."""
        row = {
            "agent_steps": at.agent_steps, "frames": self._frames(at), "updates": at.updates, "episodes": at.episodes,
            "eval_score": float(np.mean(scores)) if scores is not None and len(scores) else None,
            "eval_episodes": 0 if scores is None else len(scores),
            "train_score_100": float(np.mean(self.recent)) if self.recent else None,
        } | values  # fmt: skip
        self._append("curve.csv", tuple(_plain(row.get(name)) for name in self.heads["curve.csv"]))
        self._append("timing.csv", (at.agent_steps, round(self._seconds(), 2), round(self._rate(at), 1)))
        if self.tracker:
            clock = {"hours": self._seconds() / 3600, "steps_per_second": self._rate(at)}
            self.tracker.log({name: value for name, value in (row | clock).items() if value is not None})
        if scores is not None:
            shown = f"{row['eval_score']:.2f}" if len(scores) else "no episode ended"
            say(
                f"evaluation at agent step {at.agent_steps:,}: mean score {shown} over {len(scores)} episodes"
            )

    def _append(self, name: str, row: tuple) -> None:
        line = (",".join(map(str, row)) + "\n").encode()
        self._logs[name] += line
        with contextlib.suppress(
            OSError
        ):  # a full disk must not stop a run; the checkpoint has the log as well
            self._files[name].write(line)

    def _open_log(self, name: str) -> None:
        """The live copy of a log, cut back to what the checkpoint knows."""
        (self.live / name).write_bytes(self._logs[name])
        self._files[name] = open(self.live / name, "ab", buffering=0)  # noqa: SIM115 (closed in `close`)

    def _rows(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self._logs[name].decode())))

    def _frames(self, at: Any) -> int:
        return at.agent_steps * self.frames_per_step

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def _rate(self, at: Any) -> float:
        """Agent steps per second of training over this attempt, evaluation phases included."""
        return (at.agent_steps - self._steps_at_start) / max(time.monotonic() - self._began, 1e-9)

    def _line(self, at: Any, now: float) -> None:
        rate = (at.agent_steps - self._steps_at_line) / (now - self._last_line)
        overall = self._rate(at)  # none yet when a run is resumed at a long evaluation phase
        left = (self.settings["training_steps"] - at.agent_steps) / overall if overall > 0 else None
        mean = (
            f"mean of the last {len(self.recent)}: {np.mean(self.recent):.2f}"
            if self.recent
            else "no episode yet"
        )
        say(
            f"{self._frames(at):,} frames  {at.episodes:,} episodes  {mean}  {rate:.0f} steps/s  "
            f"{f'{datetime.timedelta(seconds=int(left))} left' if left is not None and left < 1e12 else ''}"
        )
        self._last_line, self._steps_at_line, self._line_rate = now, at.agent_steps, rate
        self._status("training")

    def _status(self, state: str, message: str = "") -> None:
        at = self._parts["at"]
        status = {
            "state": state, "agent_steps": at.agent_steps, "training_steps": self.settings["training_steps"],
            "steps_per_second": round(self._line_rate, 1), "updated": _now(), "message": message,
        }  # fmt: skip
        temporary = self.work / ".status.tmp"
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(status))
            os.replace(temporary, self.work / "status.json")

    # --- the end ---

    def finish(self, at: Any, model: torch.nn.Module, replay: Any = None) -> None:
        """Writes the outputs, keeps a copy to write them again, and deletes checkpoints and the replay's frames."""
        self._all_finite()
        self.checkpoints.wait()
        seconds = self._seconds()
        self._append("timing.csv", (at.agent_steps, round(seconds, 2), round(self._rate(at), 1)))
        counts = {name: getattr(at, name) for name in ("target_copies", "evaluations") if hasattr(at, name)}
        if replay is not None:
            counts["ring_wraps"] = int(replay.written.min() // replay.slots)
            counts["replay_sha256"] = replay.digest()
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        steps_per_second = at.agent_steps / max(seconds - self._evaluation_seconds, 1e-9)
        run = {
            "paper": self.paper.name, "variant": self.variant, "task": self.task.name, "budget": self.size,
            "seed": self.seed, "settings": self.settings, "settings_key": self.settings_key,
            "progress": {"agent_steps": at.agent_steps, "frames": self._frames(at), "updates": at.updates, "episodes": at.episodes},
            "frames_per_agent_step": self.frames_per_step, "paper_frames": self.task.paper_frames,
            "result": {
                "best_score": getattr(at, "best_score", None),
                "best_agent_step": getattr(at, "best_agent_step", 0) or at.agent_steps,
                "stopped": "length" if at.agent_steps >= self.settings["training_steps"] else "reached", "counts": counts,
            },
            "provenance": self.provenance | {"finished": _now(), "notes": self.notes},
            "cost": {
                "seconds": round(seconds, 1), "attempts": self._attempts, "steps_per_second": round(steps_per_second, 1),
                "evaluation_seconds": round(self._evaluation_seconds, 1), "checkpoints": self._saves,
                "peak_memory_mb": round(_peak_memory_mb()),
            },
        }  # fmt: skip
        files = {name: bytes(text) for name, text in self._logs.items()}
        files["model.safetensors"] = save_tensors(weights)
        files["run.json"] = (json.dumps(run, indent=1) + "\n").encode()
        try:
            self._write_done(files, run["result"]["stopped"])
            self._write_outputs()
        except OSError as problem:
            raise UserError(
                f"the results cannot be written to {self.folder} ({problem.strerror}); the last checkpoint is kept. "
                "Free some space, then start the same command again"
            ) from problem
        self._status("done")
        self._clean_up()
        if self.tracker:
            self.tracker.finish()
        say(f"done: {self._frames(at):,} frames in {datetime.timedelta(seconds=int(seconds))}; {self.folder}")

    def finish_laptop(self, files: dict[str, bytes], seconds: float) -> None:
        """The end of a laptop task: `files` by name (common/runs/laptop.py) and run.json, kept and written like a training's."""
        run = {
            "paper": self.paper.name, "variant": self.variant, "task": self.task.name, "budget": self.size,
            "seed": self.seed, "settings": self.settings, "settings_key": self.settings_key,
            "provenance": self.provenance | {"finished": _now(), "notes": self.notes},
            "cost": {"seconds": round(seconds, 1), "attempts": 1, "peak_memory_mb": round(_peak_memory_mb())},
        }  # fmt: skip
        self._write_done(files | {"run.json": (json.dumps(run, indent=1) + "\n").encode()}, "length")
        self._write_outputs()

    def _write_done(self, files: dict[str, bytes], stopped: str) -> None:
        done = self.work / ".done.tmp"
        shutil.rmtree(done, ignore_errors=True)
        done.mkdir()
        for name, content in files.items():
            write_file(done / name, content)
        checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        write_json(done / "done.json", {"key": self.key, "stopped": stopped, "sha256": checksums})
        shutil.rmtree(self.work / "done", ignore_errors=True)
        os.replace(done, self.work / "done")
        fsync_folder(self.work)

    def _clean_up(self) -> None:
        """What a finished run no longer needs."""
        for old in [*self.checkpoints.all(), *self.work.glob("torn-*")]:
            shutil.rmtree(old)
        (self.work / "frames.bin").unlink(missing_ok=True)

    def _write_outputs(self) -> None:
        for name in self.outputs:
            write_file(self.folder / name, (self.work / "done" / name).read_bytes())

    def _provenance(self) -> dict:
        commit, diff = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
        names = ("torch", "ale_py", "gymnasium", "numpy", "opencv-python-headless")
        lock = ROOT / "uv.lock"
        return {
            "commit": commit.strip() if commit else None,
            "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
            "code_sha256": code_fingerprint(self.paper.name, self.task.script),
            "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
            "rom_sha256": _rom(self.task),
            "versions": {"python": platform.python_version()} | {n.split("-")[0].replace("ale_py", "ale_py"): version(n) for n in names},
            "hardware": {
                "cpu": cpu_name(), "cores": os.cpu_count(), "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
                "gpu": torch.cuda.get_device_name() if self.device.type == "cuda" else None,
            },
            "device": self.device.type, "threads": self.threads,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "command": self.command, "started": _now(),
        }  # fmt: skip


# --- helpers ---


def say(text: str) -> None:
    """Prints a line. A terminal or pipe that is gone must not end a run: from then on it goes on silently."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)


def curve_columns(paper: str) -> tuple[str, ...]:
    """What the paper's script adds to the columns of every curve: its constant CURVE."""
    return tuple(getattr(importlib.import_module(f"replications.{paper}.train"), "CURVE", ()))


def code_fingerprint(paper: str, script_name: str = "train") -> str:
    """SHA-256 over what a run's numbers depend on, comments, docstrings and layout left out."""
    digest = hashlib.sha256()
    script = ROOT / "replications" / paper / f"{script_name}.py"
    shared = CODE if script_name == "train" else ("runs/laptop",)
    names = [*shared, *(name for name in CODE_OF_SOME if f"from common.{name} import" in script.read_text())]
    for path in [script, *(ROOT / "common" / f"{name}.py" for name in names)]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:]
        digest.update(path.name.encode() + ast.dump(tree).encode())
    return digest.hexdigest()


def _rom(task: papers.Task) -> str | None:
    if task.kind != "atari":
        return None
    from common.environments.atari import check_rom

    return check_rom(task.game)


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """A number as the logs print it: integers without a point, floats to nine significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else float(f"{float(value):.9g}")
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def pick_device(asked: str) -> str:
    """ "cpu" or "cuda"; with several GPUs, this process gets one that no other training has."""
    if asked != "cpu":
        claim_gpu()
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device cuda was asked for, and PyTorch finds no CUDA device here; use --device cpu, or install a driver"
        )
    return asked


def prepare(seed: int, threads: int, deterministic: bool = True) -> int:
    """Seeds this process and makes it deterministic; returns the number of threads (0: one per core, at most 4)."""
    threads = threads or min(os.cpu_count() or 1, 4)
    make_deterministic(seed, threads, deterministic)
    return threads


def parse(
    paper: str, config_class: type, arguments: list[str], script: str = "train"
) -> tuple[argparse.Namespace, papers.Resolved]:
    """The command line: which run, and any `Config` field as a flag."""
    parser = argparse.ArgumentParser(
        prog=f"python -m replications.{paper}.{script}",
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", default=None, help="a task of paper.yaml, e.g. pong")
    parser.add_argument("--variant", default=None)
    parser.add_argument("--budget", default="auto", help="smoke, hour, paper, frames-N or auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: one per core, at most 4")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--fresh", action="store_true", help="start over; the earlier run is put aside")
    parser.add_argument(
        "--resume-changed",
        action="store_true",
        help="go on from a checkpoint of changed code, noted on the page",
    )
    parser.add_argument(
        "--nondeterministic",
        action="store_true",
        help="allow kernels that give other bytes each time; the page says so",
    )
    parser.add_argument(
        "--stop-when-reached",
        action="store_true",
        help="end after two evaluation phases at the published score",
    )
    known, rest = parser.parse_known_args(arguments)
    if "--help" in rest or "-h" in rest:
        parser.print_help()
        say("\nand every constant of the paper:\n")
        tyro.cli(config_class, args=["--help"])
    if known.seed < 0:
        raise UserError(f"--seed {known.seed}: a seed is 0 or more")
    folder = papers.load_paper(paper)
    if known.task is None:
        raise UserError(f"--task is missing; {paper} has {', '.join(folder.tasks)}")
    _, task = papers.find_task(folder, known.variant, known.task)
    if task.script != script:
        raise UserError(
            f"the task {task.name!r} is not of this script; run python -m replications.{paper}.{task.script} --task {task.name}"
        )
    own = getattr(
        sys.modules[config_class.__module__], "DEVICE", None
    )  # A3C's workers are processes of the CPU
    if own is not None and known.device not in ("auto", own):
        raise UserError(f"--device {known.device}: {paper} runs on the {own} only; leave the flag out")
    known.device = pick_device(own or known.device)
    budget = papers.resolve_budget(known.budget, task, known.device)
    resolved = papers.resolve(folder, known.variant, known.task, budget)
    # What a script cannot have on this machine (A3C: as many workers as the paper) it says itself
    fit = getattr(sys.modules[config_class.__module__], "fit_to_machine", lambda _: {})
    fitted = resolved.settings | fit(config_class(**resolved.settings))
    config = tyro.cli(config_class, default=config_class(**fitted), args=rest)
    overrides = {k: v for k, v in dataclasses.asdict(config).items() if v != resolved.settings[k]}
    return known, papers.resolve(folder, known.variant, known.task, budget, overrides)


def main(paper: str, config_class: type, train) -> None:
    """What `python -m replications.<paper>.train` does."""

    def run_it() -> None:
        known, resolved = parse(paper, config_class, sys.argv[1:])
        threads = prepare(known.seed, known.threads, not known.nondeterministic)
        run = Run(
            resolved, known.seed, device=known.device, threads=threads, results=known.results,
            command=" ".join([f"python -m replications.{paper}.train", *sys.argv[1:]]), stop_when_reached=known.stop_when_reached,
            resume_changed=known.resume_changed,
        )  # fmt: skip
        try:
            if run.open(known.fresh):
                say(f"finished already: {run.folder}")
                return
            if not run.checkpoints.all():
                run.say_how_long()
                prepare(known.seed, threads, not known.nondeterministic)  # timing used the generators
            train(config_class(**resolved.settings), run)
        except BaseException as problem:
            if run._parts:
                run._status("failed", str(problem))
            if isinstance(problem, OSError):
                raise disk_error(problem, run.folder) from problem
            raise
        finally:
            run.close()

    run_main(run_it)
