"""Where the milliseconds of training go, from torch.profiler over the script's own loop:

    ./run python -m benchmarks.timeline [--steps 200] [--write]

Prints milliseconds per agent step and per update; --write also puts the table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import machine
from benchmarks.learning import REPLAY_START, WARM_UP, PausingRun, open_run, throughput_settings
from benchmarks.process import Finished
from common.environments import atari
from common.errors import UserError, run_main
from common.learning.replay import Replay

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- timeline: written by python -m benchmarks.timeline --write -->", "<!-- end of timeline -->"
MARK = "part: "  # what the names of our ranges begin with
PARTS = {
    "emulation": "the emulator: send and recv of AtariVectorEnv",
    "preprocessing": "luminance and resize",
    "acting": "epsilon-greedy: the network on one state",
    "storing": "the new frame and transition into the replay memory",
    "current state": "the stack of the last frames, for acting",
    "sampling": "one batch of 32 from the replay memory",
    "target forward": "the target network on the next states",
    "forward": "the network on the states",
    "backward": "",
    "optimiser": "",
    "rest of the update": "targets, loss, zeroing of the gradient",
    "rest": "the loop itself, logs, resets' bookkeeping",
}
Interval = tuple[str, float, float]  # name, start, end


def exclusive(intervals: Iterable[Interval]) -> dict[str, float]:
    """The time of each name without that of the intervals nested inside it. Intervals nest or are disjoint (one thread)."""
    total: dict[str, float] = defaultdict(float)
    open_: list[tuple[str, float]] = []
    for name, start, end in sorted(intervals, key=lambda i: (i[1], -i[2])):
        while open_ and open_[-1][1] <= start:
            open_.pop()
        total[name] += end - start
        if open_:
            total[open_[-1][0]] -= end - start
        open_.append((name, end))
    return dict(total)


@contextlib.contextmanager
def marked(script: Any) -> Iterator[None]:
    """Names the parts of the script's loop to the profiler while it lasts; what a script does not have is left out."""
    acting = False

    def wrap(owner: Any, name: str, part: str) -> None:
        original: Callable | None = getattr(owner, name, None)
        if original is None:
            return

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal acting
            before, acting = acting, acting or part == "acting"
            try:
                with record_function(MARK + part):
                    return original(*args, **kwargs)
            finally:
                acting = before

        stack.enter_context(mock.patch.object(owner, name, call))

    def named_networks(*args: Any, **kwargs: Any) -> torch.nn.Module:
        network = make_network(*args, **kwargs)
        forward = network.forward

        def call(states: torch.Tensor) -> torch.Tensor:
            if acting:
                return forward(states)
            with record_function(MARK + ("forward" if torch.is_grad_enabled() else "target forward")):
                return forward(states)

        network.forward = call
        return network

    with contextlib.ExitStack() as stack:
        make_network = script.make_network
        stack.enter_context(mock.patch.object(script, "make_network", named_networks))
        wrap(atari.AtariVectorEnv, "send", "emulation")
        wrap(atari.AtariVectorEnv, "recv", "emulation")
        wrap(atari.AtariVectorEnv, "reset", "emulation")
        frame = atari.PREPROCESSING["nature"]
        stack.enter_context(
            mock.patch.dict(atari.PREPROCESSING, nature=record_function(MARK + "preprocessing")(frame))
        )
        wrap(script, "act", "acting")
        for name, part in (
            ("add", "storing"),
            ("start", "storing"),
            ("current", "current state"),
            ("draw", "sampling"),
            ("gather", "sampling"),
        ):
            wrap(Replay, name, part)
        wrap(script, "update", "rest of the update")
        wrap(script.RMSProp, "step", "optimiser")
        wrap(torch.Tensor, "backward", "backward")
        yield


class ProfiledRun(PausingRun):
    """Runs `steps` agent steps unprofiled for comparison, then as many under the profiler, and ends the loop."""

    steps = 200

    def tick(self, at: Any) -> None:
        super().tick(at)
        if at.agent_steps == WARM_UP:
            self.began = time.perf_counter()
        elif at.agent_steps == WARM_UP + self.steps:
            self.plain_seconds = time.perf_counter() - self.began
            self.profiler = profile(activities=[ProfilerActivity.CPU], acc_events=True)
            self.profiler.__enter__()
            self.began, self.updates_before = time.perf_counter(), at.updates
        elif at.agent_steps == WARM_UP + 2 * self.steps:
            self.seconds, self.updates = time.perf_counter() - self.began, at.updates - self.updates_before
            self.profiler.__exit__(None, None, None)
            raise Finished


def measure(paper: str, steps: int, threads: int, folder: Path) -> dict[str, Any]:
    """Milliseconds per agent step and calls by part, with and without the profiler, and updates among the steps."""
    run, script, config = open_run(
        paper, folder, threads, throughput_settings(20 * REPLAY_START + 4 * steps), ProfiledRun
    )
    run.steps = steps
    with marked(script), contextlib.suppress(Finished):
        script.train(config, run)
    run.close()
    events = [e for e in run.profiler.events() if e.name.startswith(MARK)]
    spent = exclusive((e.name.removeprefix(MARK), e.time_range.start, e.time_range.end) for e in events)
    return {
        "steps": steps,
        "updates": run.updates,
        "parts": complete({name: us / 1000 for name, us in spent.items()}, 1000 * run.seconds),
        "profiled_ms_per_step": 1000 * run.seconds / steps,
        "plain_ms_per_step": 1000 * run.plain_seconds / steps,
    }


def complete(spent: Mapping[str, float], whole: float) -> dict[str, float]:
    """Every part in order, in the unit of `spent`; what no part explains of the whole is the rest."""
    unknown = set(spent) - set(PARTS)
    if unknown:
        raise ValueError(f"parts {sorted(unknown)} are not in PARTS")
    return {name: spent.get(name, 0.0) for name in PARTS if name != "rest"} | {
        "rest": whole - sum(spent.values())
    }


UPDATE = ("sampling", "target forward", "forward", "backward", "optimiser", "rest of the update")


def table(found: Mapping[str, Any]) -> str:
    """Markdown: milliseconds per agent step, per update for what an update does, and shares."""
    parts, steps, updates = found["parts"], found["steps"], found["updates"]
    whole = sum(parts.values())
    rows = [
        "| part | ms per agent step | ms per update | share | what |",
        "|---|---:|---:|---:|---|",
        *(
            f"| {name} | {ms / steps:.3f} | {f'{ms / updates:.2f}' if name in UPDATE and updates else ''} | "
            f"{ms / whole:.1%} | {PARTS[name]} |"
            for name, ms in parts.items()
        ),
        f"| all | {whole / steps:.3f} | {f'{sum(parts[n] for n in UPDATE) / updates:.2f}' if updates else ''} | 100% | "
        f"without the profiler {found['plain_ms_per_step']:.3f} ms per agent step |",
    ]
    return "\n".join(rows)


def put(readme: str, content: str, begin: str = BEGIN, end: str = END) -> str:
    """The README's text with what stands between the two marks replaced. Raises UserError when a mark is missing."""
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise UserError(f"{README.name} must have the lines {begin!r} and {end!r}, once each, in this order")
    return readme[: readme.index(begin) + len(begin)] + f"\n\n{content}\n\n" + readme[readme.index(end) :]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timeline", description="Where the milliseconds go."
    )
    parser.add_argument(
        "--steps", type=int, default=200, help="agent steps under the profiler, a multiple of 4"
    )
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: one per core, at most 4")
    parser.add_argument(
        "--results", type=Path, default=machine.ROOT / "results", help="the disk to measure on"
    )
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    known = parser.parse_args()
    if known.steps < 4 or known.steps % 4:
        raise UserError(f"--steps {known.steps}: a multiple of 4, at least 4")
    os.environ["WANDB_MODE"] = "disabled"
    load, threads = machine.load_average()[0], known.threads or min(os.cpu_count() or 1, 4)
    complaints = machine.complaints(load, machine.other_load(1.0))
    known.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=known.results) as folder:
        found = measure("dqn", known.steps, threads, Path(folder))
    about = machine.describe()
    text = (
        f"{found['steps']} agent steps with {found['updates']} updates, DQN on Pong; {about['cpu']}, {about['cores']} cores, "
        f"{threads} threads of PyTorch {torch.__version__}; {machine.now()[:10]}.\n"
        + "".join(f"Warning: {c}.\n" for c in complaints)
        + "\n"
        + table(found)
    )
    print(text)
    if known.write:
        README.write_text(put(README.read_text(), text))
        print(f"written: {README}")


if __name__ == "__main__":
    run_main(main)
