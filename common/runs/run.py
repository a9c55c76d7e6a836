"""One training run, as a script's loop sees it: resume, steps, evaluation phases, logs, the outputs at its end.

`resume` is called once; then the loop is `for _ in run.steps(progress):`, with `log_episodes` and `evaluation_phase` when something
happened, and `finish` after it. Nothing of any paper is in here. Beside it: `folder.py` (lock, earlier runs, outputs), `logs.py`,
`checkpoint.py`, `provenance.py`, `tracking.py`, `command_line.py`.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors

from common import papers
from common.environments.vector import ReplayableEnvs, Step
from common.errors import UserError
from common.evaluation.protocol import Policy, evaluation_phase
from common.runs import tracking
from common.runs.checkpoint import set_states, states_of
from common.runs.description import describe, peak_memory_mb, plan
from common.runs.folder import RunFolder
from common.runs.logs import Logs, plain
from common.runs.progress import Progress, times_due
from common.runs.provenance import key_of, machine, now, provenance
from common.say import say

STOPPED = 75  # exit code after a signal: saved, start again to go on
SAVE_EVERY = 300  # seconds
LINE_EVERY = 10  # seconds
TICK_EVERY = 5  # seconds between the turns of a script whose workers train on their own


class Run:
    """resolved: what will be trained. results: the folder above all runs. stop_when_reached: end after two evaluation phases
    in a row at the published score."""

    seconds_between_ticks = TICK_EVERY

    def __init__(
        self, resolved: papers.Resolved, seed: int, *, device: str, threads: int, results: Path, command: str = "",
        stop_when_reached: bool = False,
    ):  # fmt: skip
        self.resolved, self.seed, self.threads = resolved, seed, threads
        self.paper, self.task, self.size = resolved.paper, resolved.task, resolved.budget
        self.variant, self.asked = resolved.variant.name or None, resolved.asked
        self.device, self.stop_when_reached = torch.device(device), stop_when_reached
        self.frames_per_step, self.settings = resolved.frames_per_agent_step, resolved.settings
        self.settings_key = papers.settings_key(resolved, seed)
        self.provenance = provenance(self.paper.name, self.task, self.device.type, threads, command)
        path = papers.run_dir(self.paper.name, self.variant, self.task.name, self.size, seed, results)
        key = f"{self.settings_key}-{key_of(self.provenance)}"
        self.folder = RunFolder(path, self.settings_key, key)
        self.checkpoints = self.folder.checkpoints
        self.logs = Logs(self.folder.live, curve_columns(self.paper.name))
        self.notes: list[str] = []
        self.recent: deque[float] = deque(maxlen=100)
        self.tracker: tracking.Tracker | None = None
        self.parts: dict[str, Any] = {}
        self._seconds_before, self._attempts, self._evaluation_seconds, self._saves = 0.0, 1, 0.0, 0
        self._stop: int | None = None
        self._reached_in_a_row = 0
        self._line_rate = 0.0

    def open(self, fresh: bool = False, resume_changed: bool = False) -> bool:
        """Takes the run's folder; True if the run is finished already and was written again."""
        finished = self.folder.take(
            fresh=fresh,
            resume_changed=resume_changed,
            whole_length=not self.stop_when_reached,
            command=self.provenance["command"] or "the same command",
        )
        self.notes += self.folder.notes
        return finished

    def close(self) -> None:
        """Lets go of the folder, after the checkpoint that is being written."""
        self.folder.release()
        self.logs.close()

    # --- what a loop calls ---

    def frame_storage(self, envs: ReplayableEnvs, capacity: int) -> dict[str, Any]:
        """Where a replay memory's frames go, as arguments of `Replay`: device, folder, and slack.

        Screens go to a file, small observations to memory. The slack are slots of the ring beyond the capacity: what can be
        written between four checkpoints. Several environments at once may write so fast that a tenth would mean a checkpoint
        every few seconds: half. Raises UserError when checkpoints refer to frames that are gone.
        """
        slack = max(capacity // (10 if envs.num_envs == 1 else 2), 300)
        storage = {"device": self.device, "slack": slack, "folder": None}
        if envs.obs_dtype != np.uint8:
            return storage
        frames = self.folder.work / "frames.bin"
        if not self.checkpoints.all():
            frames.unlink(missing_ok=True)  # a file that no checkpoint refers to is made anew
        elif not frames.exists():
            raise UserError(
                f"{frames}, the replay memory's frames, is missing: this run can only start over; add --fresh"
            )
        return storage | {"folder": self.folder.work}

    def resume(self, progress: Progress, **parts: Any) -> bool:
        """Registers everything that has state, and loads the newest whole checkpoint into it if there is one."""
        self.parts = {"progress": progress, **parts}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            if (
                number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
            ):  # nohup ignores it, and goes on
                signal.signal(number, self._on_signal)
        replay = parts.get("replay")
        on_disk = replay is not None and isinstance(replay.frames, np.memmap)
        self._slots_between = max((replay.slots - replay.window) // 4, 1) if on_disk else None
        loaded = self.checkpoints.load()
        texts = None
        if loaded is not None:
            try:
                texts = self._restore(*loaded)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as problem:
                raise UserError(
                    f"the checkpoint in {self.folder.work} does not fit this script ({type(problem).__name__}: "
                    f"{problem}). Nothing was changed; --fresh puts it aside and starts over"
                ) from problem
        self.logs.open(texts)
        self.recent.extend(float(row["score"]) for row in self.logs.rows("episodes.csv")[-100:])
        self._began = self._last_line = self._last_save = time.monotonic()
        self._steps_at_line = self._steps_at_start = progress.agent_steps
        self._slots_at_save = self._slots_written()
        self._start_tracker()
        if loaded is None:
            self._announce(replay if on_disk else None)
        else:
            say(f"resumed at agent step {progress.agent_steps:,} (attempt {self._attempts})")
        return loaded is not None

    def steps(self, progress: Progress) -> Iterator[None]:
        """One turn of a script's loop after the other, until the training is over; see `tick`."""
        while True:
            self.tick(progress)
            if progress.agent_steps >= self.settings["training_steps"] or self.published_score_reached():
                return
            yield

    def tick(self, progress: Progress) -> None:
        """Before each turn: the progress line, a checkpoint when one is due, and leaving after a signal.

        Nothing is saved during an evaluation phase, which can be long, so a turn that ends with one may be saved before.
        """
        moment = time.monotonic()
        if self._stop is not None:
            self.save()
            self._leave()
        if moment - self._last_line >= LINE_EVERY:
            self._line(progress, moment)
        full = self._slots_between and self._slots_written() - self._slots_at_save >= self._slots_between
        stride, period = progress.agent_steps - progress.before, self.settings.get("evaluation_period")
        phase = period and times_due(period, progress.agent_steps, progress.agent_steps + stride)
        if full or moment - self._last_save >= (SAVE_EVERY / 5 if phase else SAVE_EVERY):
            self.save()

    def interrupted(self) -> bool:
        """True after a signal: the next turn is not begun."""
        return self._stop is not None

    def evaluation_phase(
        self, progress: Progress, policy: Policy, network: torch.nn.Module, best: torch.nn.Module | None,
        loss_sum: torch.Tensor, **columns: float | list[float],
    ) -> None:  # fmt: skip
        """A frozen policy plays games of its own; a row of the curve; the best network so far is kept in `best`.

        loss_sum: of the updates since the last phase, a scalar; set to zero. columns: further ones of the curve; of a
        list that the policy fills, the mean.
        """
        scores = self.evaluate(policy, progress)
        if best is not None:
            progress.keep_best(scores, network, best)
        columns = {k: float(np.mean(v)) if isinstance(v, list) else v for k, v in columns.items()}
        updates = max(progress.updates - progress.updates_logged, 1)
        self.log_phase(progress, scores, loss=float(loss_sum) / updates, **columns)
        loss_sum.zero_()
        progress.updates_logged, progress.evaluations = progress.updates, progress.evaluations + 1

    def evaluate(self, policy: Policy, progress: Progress) -> np.ndarray:
        """Plays one evaluation phase with environments of its own; returns the raw scores of its episodes."""
        script = importlib.import_module(f"replications.{self.paper.name}.train")
        self._all_finite()
        started = time.monotonic()
        self.status("evaluating")

        def check() -> None:  # an evaluation changes nothing: the last checkpoint leads here again
            if self._stop is not None:
                self._leave()

        config, cap = script.Config(**self.settings), self.resolved.protocol.max_frames
        scores = evaluation_phase(
            script, config, self.task, policy, self.seed, progress.evaluations, cap, check
        )
        self._evaluation_seconds += time.monotonic() - started
        best = self.task.published.value if self.task.published else self.task.bar
        at_it = len(scores) > 0 and best is not None and float(np.mean(scores)) >= best
        self._reached_in_a_row = self._reached_in_a_row + 1 if at_it else 0
        return scores

    def published_score_reached(self) -> bool:
        """True when the run may end early: two evaluation phases in a row at the published score, where that was asked for."""
        if self.resolved.protocol.score == "last_100_episodes":  # the score would be its own stopping rule
            return False
        return self.stop_when_reached and self._reached_in_a_row >= 2

    def log_episodes(self, progress: Progress, step: Step) -> None:
        """Counts the episodes that ended with this step, and adds a row for each."""
        for i in np.flatnonzero(step.done):
            self.log_episode(progress, step.scores[i], int(step.lengths[i]))

    def log_episode(self, progress: Progress, score: float, length: int) -> None:
        """As `log_episodes`, for one episode: raw score and length in agent steps."""
        progress.episodes += 1
        counts = {"episode": progress.episodes, "agent_steps": progress.agent_steps}
        row = counts | {"frames": self._frames(progress), "score": score, "length": length}
        self.logs.append("episodes.csv", row)
        self.recent.append(float(plain(score)))  # as printed, so that a resumed run has the same

    def log_phase(self, progress: Progress, scores: np.ndarray | None, **values: float) -> None:
        """A row of the curve: `scores` of the evaluation phase (None: the paper has none) and any other columns of it."""
        row = {
            "agent_steps": progress.agent_steps, "frames": self._frames(progress), "updates": progress.updates,
            "episodes": progress.episodes,
            "eval_score": float(np.mean(scores)) if scores is not None and len(scores) else None,
            "eval_episodes": 0 if scores is None else len(scores),
            "train_score_100": float(np.mean(self.recent)) if self.recent else None,
        } | values  # fmt: skip
        self.logs.append("curve.csv", row)
        clock = self._clock(progress)
        self.logs.append("timing.csv", clock)
        if self.tracker:
            times = {"hours": clock["seconds"] / 3600, "steps_per_second": clock["steps_per_second"]}
            self.tracker.log({name: value for name, value in (row | times).items() if value is not None})
        if scores is not None:
            mean = f"{row['eval_score']:.2f}" if len(scores) else "no episode ended"
            step = f"evaluation at agent step {progress.agent_steps:,}"
            say(f"{step}: mean score {mean} over {len(scores)} episodes")

    def check_finite(self, loss_sum: torch.Tensor, progress: Progress) -> None:
        """Stops the run when the loss is no longer a number; looks every thousand updates, so as not to wait for a GPU."""
        if progress.updates % 1000 < self.settings.get("num_envs", 1):
            self._must_be_finite(loss_sum)

    def save(self) -> None:
        """Copies the state of every part and writes a checkpoint in the background; one that failed is tried once more."""
        try:
            self.checkpoints.wait()
        except UserError as problem:
            say(f"{problem}. Trying again")
            self._save()
            self.checkpoints.wait()
        self._save()

    def finish(self, progress: Progress, model: torch.nn.Module, replay: Any = None) -> None:
        """Writes the outputs, keeps a copy to write them again, and deletes checkpoints and the replay's frames."""
        self._all_finite()
        self.checkpoints.wait()
        seconds = self._seconds()
        self.logs.append("timing.csv", self._clock(progress))
        counts = {"target_copies": progress.target_copies, "evaluations": progress.evaluations}
        if replay is not None:
            counts["ring_wraps"] = int(replay.written.min() // replay.slots)
            counts["replay_sha256"] = replay.digest()
        reached = progress.agent_steps < self.settings["training_steps"]
        result = {
            "best_score": progress.best_score,
            "best_agent_step": progress.best_agent_step or progress.agent_steps,
            "stopped": "reached" if reached else "length",
            "counts": counts,
        }
        run = describe(self) | {
            "progress": {name: getattr(progress, name) for name in ("agent_steps", "updates", "episodes")}
            | {"frames": self._frames(progress)},
            "frames_per_agent_step": self.frames_per_step, "paper_frames": self.task.paper_frames, "result": result,
            "provenance": self.provenance | {"finished": now(), "notes": self.notes},
            "cost": {
                "seconds": round(seconds, 1), "attempts": self._attempts,
                "steps_per_second": round(progress.agent_steps / max(seconds - self._evaluation_seconds, 1e-9), 1),
                "evaluation_seconds": round(self._evaluation_seconds, 1), "checkpoints": self._saves,
                "peak_memory_mb": peak_memory_mb(),
            },
        }  # fmt: skip
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        files = self.logs.as_bytes() | {"model.safetensors": save_tensors(weights)}
        files["run.json"] = (json.dumps(run, indent=1) + "\n").encode()
        try:
            self.folder.write_done(files, result["stopped"])
            self.folder.write_outputs()
        except OSError as problem:
            raise UserError(
                f"the results cannot be written to {self.folder.path} ({problem.strerror}); the last checkpoint is "
                "kept. Free some space, then start the same command again"
            ) from problem
        self.status("done")
        self.folder.clean_up()
        if self.tracker:
            self.tracker.finish()
        say(
            f"done: {self._frames(progress):,} frames in {datetime.timedelta(seconds=int(seconds))}; {self.folder.path}"
        )

    # --- checkpoints and signals ---

    def _on_signal(self, number: int, _frame) -> None:
        self._stop = number

    def _save(self) -> None:
        self._all_finite()
        state = states_of(self.parts, self.device) | {"reached_in_a_row": self._reached_in_a_row}
        self._saves += 1
        clock = {
            "seconds": self._seconds(), "attempts": self._attempts, "evaluation_seconds": self._evaluation_seconds,
            "saves": self._saves, "notes": self.notes, "machine": machine(self.provenance),
        }  # fmt: skip
        texts = self.logs.as_bytes() | {"clock.json": json.dumps(clock).encode()}
        flush = self.parts["replay"].flush if "replay" in self.parts else lambda: None
        self.checkpoints.save(self.parts["progress"].agent_steps, state, texts, flush)
        self._last_save, self._slots_at_save = time.monotonic(), self._slots_written()
        self._saved_at = self.parts["progress"].agent_steps

    def _restore(self, state: dict, texts: dict[str, bytes]) -> dict[str, bytes]:
        """Puts a checkpoint's state into this run; returns the texts of the logs."""
        set_states(self.parts, state, self.device)
        clock = json.loads(texts.pop("clock.json"))
        self._seconds_before, self._attempts = clock["seconds"], clock["attempts"] + 1
        self._evaluation_seconds, self._saves = clock["evaluation_seconds"], clock["saves"]
        self.notes, self._reached_in_a_row = clock["notes"] + self.notes, state["reached_in_a_row"]
        self._saved_at = int(self.parts["progress"].agent_steps)
        here = machine(self.provenance)
        if clock["machine"] != here:
            self.notes.append(
                f"resumed on {here} after {clock['machine']}: the same bytes are no longer promised"
            )
            say(self.notes[-1])
        return {name: texts[name] for name in self.logs.texts}

    def _leave(self) -> None:
        self.checkpoints.wait()
        name = signal.Signals(self._stop).name
        self.status("stopped", f"by {name}")
        saved = getattr(self, "_saved_at", None)
        what = "nothing was saved yet" if saved is None else f"saved at agent step {saved:,}"
        say(f"{name}: {what}; the same command goes on from there")
        if self.tracker:  # last: it may take a while, and who sent the signal may not wait
            self.tracker.finish()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(STOPPED)

    def _slots_written(self) -> int:
        return int(self.parts["replay"].written.max()) if self._slots_between else 0

    def _all_finite(self) -> None:
        """No checkpoint and no result may hold weights that are not numbers."""
        for part in self.parts.values():
            for tensor in part.parameters() if isinstance(part, torch.nn.Module) else []:
                self._must_be_finite(tensor.detach().sum(), "a sum of weights")
        for name in ("loss_sum", "metrics"):
            if name in self.parts:
                self._must_be_finite(self.parts[name])

    def _must_be_finite(self, loss_sum: torch.Tensor, what: str = "the loss") -> None:
        if bool(torch.isfinite(loss_sum).all()):
            return
        self.checkpoints.wait()
        self.status("failed", f"{what} is not a number")
        progress, last = self.parts["progress"], self.checkpoints.all()[:1]
        kept = f": {last[0]}" if last else ""
        raise UserError(
            f"{what} became {float(loss_sum.sum())} by agent step {progress.agent_steps:,} (update {progress.updates:,}); "
            f"the last good checkpoint is kept{kept}. Try a smaller learning rate"
        )

    def _start_tracker(self) -> None:
        who = tracking.identity(
            self.paper.name, self.variant, self.task.name, self.size, self.seed, dict(self.settings), self.settings_key
        )  # fmt: skip
        history = [{k: float(v) for k, v in row.items() if v} for row in self.logs.rows("curve.csv")]
        self.tracker = tracking.start(self.folder.path, **who, history=history)

    def _announce(self, replay: Any) -> None:
        say(plan(self, replay))

    def _frames(self, progress: Progress) -> int:
        return progress.agent_steps * self.frames_per_step

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def _rate(self, progress: Progress) -> float:
        """Agent steps per second of training over this attempt, evaluation phases included."""
        return (progress.agent_steps - self._steps_at_start) / max(time.monotonic() - self._began, 1e-9)

    def _clock(self, progress: Progress) -> dict[str, float]:
        return {
            "agent_steps": progress.agent_steps,
            "seconds": round(self._seconds(), 2),
            "steps_per_second": round(self._rate(progress), 1),
        }

    def _line(self, progress: Progress, moment: float) -> None:
        rate = (progress.agent_steps - self._steps_at_line) / (moment - self._last_line)
        overall = self._rate(progress)  # none yet when a run is resumed at a long evaluation phase
        left = (self.settings["training_steps"] - progress.agent_steps) / overall if overall > 0 else 1e12
        mean = (
            f"mean of the last {len(self.recent)}: {np.mean(self.recent):.2f}"
            if self.recent
            else "no episode yet"
        )
        say(
            f"{self._frames(progress):,} frames  {progress.episodes:,} episodes  {mean}  {rate:.0f} steps/s  "
            f"{f'{datetime.timedelta(seconds=max(int(left), 0))} left' if left < 1e12 else ''}"
        )
        self._last_line, self._steps_at_line, self._line_rate = moment, progress.agent_steps, rate
        self.status("training")

    def status(self, state: str, message: str = "") -> None:
        """Writes checkpoint/status.json: what the run is doing, for whoever looks from outside."""
        if not self.parts:  # it has not come as far as its first step
            return
        status = {
            "state": state, "agent_steps": self.parts["progress"].agent_steps,
            "training_steps": self.settings["training_steps"], "steps_per_second": round(self._line_rate, 1),
            "updated": now(), "message": message,
        }  # fmt: skip
        temporary = self.folder.work / ".status.tmp"
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(status))
            os.replace(temporary, self.folder.work / "status.json")


def curve_columns(paper: str) -> tuple[str, ...]:
    """What the paper's script adds to the columns of every curve: its constant CURVE."""
    return tuple(getattr(importlib.import_module(f"replications.{paper}.train"), "CURVE", ()))
