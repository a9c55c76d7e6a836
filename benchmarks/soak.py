"""Does anything leak? The real script for half an hour with a full replay memory:

    ./run python -m benchmarks.soak --minutes 30 [--folder DIR] [--threads N] [--out FILE]

DQN on Pong, learning, with the paper's ring of a million transitions filled beforehand with synthetic frames, so that memory has
nowhere left to grow to. Evaluation phases are short and frequent, because each makes an environment and lets go of it;
checkpoints come as in life. Once a minute: resident memory, open files, threads, /dev/shm. Prints a table and writes soak.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import machine
from benchmarks.learning import open_run
from common.errors import UserError, run_main
from common.runs import run as runs
from common.runs.checkpoint import write_json

MINUTES = 30.0  # a shorter soak shows less; only one of this length or longer replaces soak.json
EPISODE = 1000  # agent steps of a synthetic episode
CHUNK = 4096  # slots filled at once
SETTINGS = {
    "replay_capacity": 1_000_000,  # transitions; the paper's
    "replay_start": 500,  # agent steps; the ring is full before the first
    "final_exploration_step": 1,
    "evaluation_period": 5_000,  # agent steps
    "evaluation_steps": 1_000,  # agent steps
}
QUARTER = 0.25  # of the time, left out of the fit: allocators and caches fill up


@dataclass(frozen=True)
class Sample:
    """One look at the process. Memory in MB (1e6 bytes); `shm_mb` and `shm_files` are the whole machine's /dev/shm."""

    minutes: float
    agent_steps: int
    resident_mb: float  # the mapped ring included
    anonymous_mb: float | None  # what is not backed by a file: where a leak of memory shows
    open_files: int
    threads: int
    shm_mb: float
    shm_files: int


@dataclass
class Tally:
    """Seconds and agent steps of ordinary ticks (no checkpoint or evaluation phase began in them)."""

    seconds: float = 0.0
    steps: int = 0

    @property
    def rate(self) -> float | None:
        return self.steps / self.seconds if self.seconds else None


class SoakRun(runs.Run):
    """A run that begins with a full ring, ends after `minutes`, and is looked at every `every` seconds."""

    minutes = MINUTES
    every = 60.0

    def _start_tracker(self) -> None:
        self.tracker = None

    def resume(self, **parts: Any) -> bool:
        resumed = super().resume(**parts)
        assert not resumed, "a soak begins in an empty folder"
        fill(parts["replay"])
        parts["replay"].flush()  # gigabytes; not to be written while a checkpoint is timed
        self.samples: list[Sample] = []
        self.stalls: list[float] = []  # seconds that training stood still for a checkpoint
        self.writes: list[float] = []  # seconds until one was on the disk, in the background
        self.phases = 0
        write = self.checkpoints._write

        def timed(*arguments: Any) -> None:
            began = time.monotonic()
            write(*arguments)
            self.writes.append(time.monotonic() - began)

        self.checkpoints._write = timed
        self.quiet, self.writing = (
            Tally(),
            Tally(),
        )  # while no checkpoint is written in the background, and while one is
        self._slots_at_save = self._slots_written()
        self._last_save = self._last_line = self._began = self._tick = time.monotonic()
        self._tick_steps: int | None = None
        return resumed

    def tick(self, at: Any) -> None:
        now = time.monotonic()
        writing = self.checkpoints._writer is not None and self.checkpoints._writer.is_alive()
        if self._tick_steps is not None:
            tally = self.writing if writing else self.quiet
            tally.seconds += now - self._tick
            tally.steps += at.agent_steps - self._tick_steps
        if now - self._began >= self.every * len(self.samples):
            self.samples.append(look(now - self._began, at.agent_steps))
            print(row(self.samples[-1]), flush=True)
        super().tick(at)
        self._tick, self._tick_steps = time.monotonic(), at.agent_steps

    def save(self) -> None:
        began = time.monotonic()
        super().save()
        self.stalls.append(time.monotonic() - began)

    def evaluate(self, policy: Any, at: Any) -> np.ndarray:
        last, self._last_save = (
            self._last_save,
            time.monotonic(),
        )  # phases this short bring no checkpoint forward
        scores = super().evaluate(policy, at)
        self._last_save = last
        self.phases += 1
        self._tick_steps = None  # the next tick comes after a phase
        return scores

    def reached(self, at: Any) -> bool:
        return time.monotonic() - self._began >= 60 * self.minutes


def fill(replay: Any) -> None:
    """Writes every slot of the ring once: random frames, games of a thousand agent steps."""
    rng = np.random.default_rng(0)
    pool = rng.integers(256, size=(CHUNK, *replay.frames.shape[2:]), dtype=np.uint8).astype(
        replay.frames.dtype
    )
    checksums = [zlib.crc32(frame) for frame in pool]
    for env in range(replay.num_envs):
        for first in range(0, replay.slots, CHUNK):
            slots = np.arange(first, min(first + CHUNK, replay.slots))
            place = slots % EPISODE
            replay.frames[env, slots[0] : slots[-1] + 1] = pool[: len(slots)]
            replay.actions[env, slots] = slots % 2
            replay.rewards[env, slots] = slots % 3 - 1
            replay.age[env, slots] = np.minimum(place, 255)
            replay.terminals[env, slots] = place == EPISODE - 2
            replay.complete[env, slots] = place < EPISODE - 1  # an episode's last screen has no transition
            if replay.checksums is not None:
                replay.checksums[env, slots] = checksums[: len(slots)]
        replay.complete[env, -1] = False
        replay.written[env] = replay.slots


def look(seconds: float, agent_steps: int) -> Sample:
    """This process as it is now."""
    process = psutil.Process()
    names: list[os.DirEntry] = []
    with contextlib.suppress(OSError):
        names = list(os.scandir("/dev/shm"))
    size = 0
    for entry in names:
        with contextlib.suppress(OSError):  # gone since
            size += entry.stat().st_size
    return Sample(
        minutes=round(seconds / 60, 2), agent_steps=agent_steps, resident_mb=round(process.memory_info().rss / 1e6, 1),
        anonymous_mb=anonymous_mb(), open_files=process.num_fds(), threads=process.num_threads(),
        shm_mb=round(size / 1e6, 1), shm_files=len(names),
    )  # fmt: skip


def anonymous_mb() -> float | None:
    """Resident memory of this process that no file backs; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(
            next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon")), 1
        )
    except (OSError, StopIteration):
        return None


def slope(minutes: Sequence[float], values: Sequence[float]) -> float | None:
    """MB per hour of a straight line through the values after the first quarter of the time; None for fewer than three."""
    kept = [(m, v) for m, v in zip(minutes, values, strict=True) if m >= QUARTER * minutes[-1]]
    if len(kept) < 3:
        return None
    x, y = np.array(kept).T
    return float(np.polyfit(x / 60, y, 1)[0])


def overhead(stall: float, write: float, slowdown: float, every: float) -> float:
    """The share of throughput that checkpoints cost: in `every` seconds, training stands still for `stall` seconds and runs
    slower by `slowdown` (a share) for the `write` seconds that one is written in the background."""
    return (stall + write * slowdown) / every


def summary(run: Any, about: dict[str, Any]) -> dict[str, Any]:
    """What soak.json holds."""
    samples: list[Sample] = run.samples
    minutes = [s.minutes for s in samples]
    anonymous = [s.anonymous_mb for s in samples]

    def ends(name: str) -> dict[str, float]:
        values = [getattr(s, name) for s in samples]
        return {"first": values[0], "last": values[-1], "largest": max(values)}

    checkpoints = len(run.stalls)
    quiet, writing = run.quiet.rate, run.writing.rate
    slower = 1 - writing / quiet if quiet and writing else None
    mean_stall = sum(run.stalls) / checkpoints if checkpoints else None
    mean_write = sum(run.writes) / len(run.writes) if run.writes else None
    share = None
    if mean_stall is not None and mean_write is not None and slower is not None:
        share = overhead(mean_stall, mean_write, max(slower, 0), runs.SAVE_EVERY)
    return about | {
        "minutes": minutes[-1],
        "agent_steps": samples[-1].agent_steps,
        "evaluation_phases": run.phases,
        "growth_mb_per_hour": {
            "resident": slope(minutes, [s.resident_mb for s in samples]),
            "anonymous": None if None in anonymous else slope(minutes, anonymous),
        },
        "open_files": ends("open_files"),
        "threads": ends("threads"),
        "shm_mb": ends("shm_mb"),
        "shm_files": ends("shm_files"),
        "resident_mb": ends("resident_mb"),
        "checkpoints": {
            "number": checkpoints,
            "stall_seconds": {"mean": mean_stall, "largest": max(run.stalls, default=None)},
            "write_seconds": mean_write,
            "steps_per_second": {"quiet": quiet, "while_written": writing},
            "share_of_throughput_every_five_minutes": share,
        },
        "samples": [asdict(s) for s in samples],
    }


def row(sample: Sample) -> str:
    values = [str(value) for value in asdict(sample).values()]
    return "  ".join(value.rjust(len(name)) for value, name in zip(values, names(), strict=True))


def names() -> list[str]:
    return [field.name for field in fields(Sample)]


def soak(
    minutes: float, every: float, folder: Path, threads: int, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Runs `replications/dqn/train.py` below `folder`, which is left empty; returns what soak.json holds."""
    began, commit, load = machine.now(), machine.commit(), machine.load_average()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as results:
        run, script, config = open_run("dqn", Path(results), threads, SETTINGS | overrides, SoakRun)
        run.minutes, run.every = minutes, every
        print("  ".join(names()), flush=True)
        try:
            script.train(config, run)
        finally:
            run.close()
    about = {
        "command": f"python -m benchmarks.soak --minutes {minutes:g} --threads {threads}", "began": began, "commit": commit,
        "machine": machine.describe(), "versions": machine.versions(), "load_average": {"start": load, "end": machine.load_average()},
        "pytorch_threads": run.threads,
        "replay_slots": config.replay_capacity + run.slack(config.replay_capacity, config.num_envs),
    }  # fmt: skip
    return summary(run, about)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two looks")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: one per core, at most 4")
    parser.add_argument("--folder", type=Path, default=machine.ROOT / "results", help="8 GB are needed there")
    parser.add_argument(
        "--out", type=Path, default=None, help="default: benchmarks/soak.json from 30 minutes on"
    )
    arguments = parser.parse_args()
    if not arguments.minutes > 0 or not arguments.every > 0:
        raise UserError("--minutes and --every are more than 0")
    whole = arguments.minutes >= MINUTES
    out = arguments.out or machine.ROOT / ("benchmarks" if whole else "results") / "soak.json"
    found = soak(arguments.minutes, arguments.every, arguments.folder, arguments.threads, {})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, found)
    print(json.dumps({name: value for name, value in found.items() if name != "samples"}, indent=1))


if __name__ == "__main__":
    run_main(main)
