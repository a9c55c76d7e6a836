"""What was tried and kept out, against what is used instead, on this machine:

    ./run python -m benchmarks.tried [--write]

Both sides of each comparison run in turn, in one process. The medians go to benchmarks/tried.json, and with --write also into
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import figures, machine
from benchmarks.soak import fill
from benchmarks.timeline import README, put
from common.errors import UserError, run_main
from common.learning.replay import Replay
from common.learning.replay_on_device import ReplayOnDevice
from common.runs import run as runs
from replications.dqn import train as dqn

BEGIN, END = "<!-- tried: written by python -m benchmarks.tried --write -->", "<!-- end of tried -->"
RESULTS = Path(__file__).resolve().parent / "tried.json"
ROUNDS, SECONDS = 5, 0.25  # at least so long does a slice of one side take
RING = 100_000  # slots
ACTIONS = 6
Call = Callable[[], object]


@dataclass(frozen=True)
class Comparison:
    """`kept` and `tried` do the same work once. name: as in tried.json; threads: of PyTorch, for both."""

    name: str
    work: str
    tried_is: str
    kept_is: str
    threads: int
    kept: Call
    tried: Call


def batches(ring: int) -> tuple[Call, Call]:
    """A batch of 32 from a ring: gathered by NumPy, and by torch as on a GPU."""
    replay, rng = Replay(ring, (84, 84)), np.random.default_rng(1)
    fill(replay)
    copy = ReplayOnDevice(replay, "cpu")
    copy.load()
    return (
        lambda: replay.sample(rng, 32),
        lambda: copy.gather(copy.flat_indices(replay.draw(rng, 32))),
    )


class BlockConv2d(nn.Conv2d):
    """A convolution of bytes whose kernel is a multiple of its stride, as one of stride 1 on blocks of stride x stride pixels.

    The same weights and, up to rounding, the same numbers as `ByteConv2d` without padding: the pixels of a block become
    channels, of input and kernel alike. Height and width must be multiples of the stride.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s, (b, c, h, w) = self.stride[0], x.shape
        pixels = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        blocks = (
            pixels.reshape(b, h // s, s, w // s, s, c).transpose(2, 3).reshape(b, h // s, w // s, s * s * c)
        )
        k = self.kernel_size[0] // s
        kernel = (self.weight / 255).reshape(-1, c, k, s, k, s).permute(0, 3, 5, 1, 2, 4)
        kernel = kernel.reshape(-1, s * s * c, k, k).contiguous(memory_format=torch.channels_last)
        return functional.conv2d(blocks.permute(0, 3, 1, 2).to(kernel.dtype), kernel, self.bias)


class DividedConv2d(nn.Conv2d):
    """Pixels divided by 255, then `Conv2d`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype, memory_format=torch.channels_last).div_(255))


# What else parts of DQN's network could be: name, in words, what is used instead, layers by their number in `NatureNetwork`
NETWORKS: tuple[tuple[str, str, str, Callable[[], dict[int, nn.Module]]], ...] = (
    ("block", "first convolution in block form", "ByteConv2d", lambda: {0: BlockConv2d(4, 32, 8, 4)}),
    ("divided", "pixels divided by 255, then Conv2d", "ByteConv2d", lambda: {0: DividedConv2d(4, 32, 8, 4)}),
    ("product", "hidden layer as a matrix product", "WideLinear", lambda: {7: nn.Linear(3136, 512)}),
)


def other_network(layers: dict[int, nn.Module]) -> dqn.NatureNetwork:
    """DQN's network with some of its layers replaced."""
    network = dqn.NatureNetwork(ACTIONS)
    for number, layer in layers.items():
        network.layers[number] = layer
    return network.to(memory_format=torch.channels_last)


def passes(batch: int, other: nn.Module) -> tuple[Call, Call]:
    """Forward and backward pass from bytes: of DQN's network, and of another one."""
    states = torch.randint(256, (batch, 4, 84, 84), dtype=torch.uint8)

    def both(network: nn.Module) -> Call:
        def call() -> None:
            network.zero_grad(set_to_none=False)
            network(states).square().sum().backward()

        return call

    return both(dqn.NatureNetwork(ACTIONS)), both(other)


def optimisers(foreach: bool) -> tuple[Call, Call]:
    """A step of centred RMSProp over DQN's network: the script's, over one flat vector, and torch's."""
    config = dqn.Config()
    flat, single = (dqn.NatureNetwork(ACTIONS) for _ in range(2))
    mine = dqn.RMSProp(flat, config)
    mine.gradient.normal_()
    for p in single.parameters():
        p.grad = torch.randn_like(p)
    theirs = torch.optim.RMSprop(
        single.parameters(),
        lr=config.learning_rate,
        alpha=config.squared_gradient_momentum,
        eps=config.min_squared_gradient,
        centered=True,
        foreach=foreach,
    )
    return mine.step, theirs.step


def actions(threads: int) -> tuple[Call, Call]:
    """One greedy action: with the threads of the update, and with one, switched there and back."""
    q = dqn.NatureNetwork(ACTIONS)
    state = torch.randint(256, (1, 4, 84, 84), dtype=torch.uint8)

    @torch.no_grad()
    def act() -> int:
        return int(q(state).argmax())

    def alone() -> int:
        torch.set_num_threads(1)
        try:
            return act()
        finally:
            torch.set_num_threads(threads)

    return act, alone


def comparisons(
    ring: int = RING, cores: int | None = None, sizes: tuple[int, ...] = (32, 256)
) -> list[Comparison]:
    """All that is compared; with two threads only where there are two cores."""
    cores = cores or os.cpu_count() or 1
    threads = (1, 2) if cores > 1 else (1,)
    found = []

    def add(name: str, n: int, work: str, tried_is: str, kept_is: str, pair: tuple[Call, Call]) -> None:
        found.append(Comparison(f"{name}_{n}_threads", work, tried_is, kept_is, n, *pair))

    sampled = batches(ring)
    work = f"a batch of 32 from {ring:,} slots"
    for n in threads:
        add("batch", n, work, "torch indexing", "NumPy indexing", sampled)
    for size in sizes:
        work = f"DQN's network, forward and backward, batch {size}"
        for name, tried_is, kept_is, layers in NETWORKS:
            pair = passes(size, other_network(layers()))
            for n in threads:
                add(f"{name}_{size}", n, work, tried_is, kept_is, pair)
    for foreach in (False, True):
        pair = optimisers(foreach)
        theirs = f"torch.optim.RMSprop, centred{', foreach' if foreach else ''} (epsilon outside the root)"
        for n in threads:
            add("foreach" if foreach else "rmsprop", n, "an optimiser step", theirs, "one flat vector", pair)
    if len(threads) > 1:
        add(
            "acting", 2, "one greedy action", "one thread, switched there and back", "two threads", actions(2)
        )
    return found


def slice_of(call: Call, seconds: float) -> float:
    """Milliseconds of one call, the median over at least three and at least so many seconds."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def measure(subjects: list[Comparison], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each comparison: medians in milliseconds, and the ratio taken round by round."""
    samples: list[tuple[list[float], list[float]]] = [([], []) for _ in subjects]
    for number in range(rounds + 1):
        for subject, (kept, tried) in zip(subjects, samples, strict=True):
            torch.set_num_threads(subject.threads)
            pair = [slice_of(call, seconds if number else 0) for call in (subject.kept, subject.tried)]
            if number:  # the first round warms up
                kept.append(pair[0])
                tried.append(pair[1])
    return [
        {
            "name": s.name,
            "work": s.work,
            "tried_is": s.tried_is,
            "kept_is": s.kept_is,
            "threads": s.threads,
            "tried": figures.summary(tried, "ms"),
            "kept": figures.summary(kept, "ms"),
            "tried_over_kept": figures.summary(figures.ratios(tried, kept), "ratio"),
        }
        for s, (kept, tried) in zip(subjects, samples, strict=True)
    ]


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a row for each comparison."""
    about = found["machine"]
    state = "a quiet machine" if found["quiet"] else "not a quiet machine: " + "; ".join(found["warnings"])
    lines = [
        f"{about['cpu']}, {about['cores']} cores, PyTorch {found['versions']['torch']}; {found['date'][:10]}; {state}.",
        "",
        "| work | tried | used instead | threads | tried, ms | used, ms | tried over used (smallest to largest) |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        ratio = row["tried_over_kept"]
        low, high = ratio["spread"]
        lines.append(
            f"| {row['work']} | {row['tried_is']} | {row['kept_is']} | {row['threads']} | {row['tried']['median']:.3g} | "
            f"{row['kept']['median']:.3g} | {ratio['median']:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tried", description="What did not pay.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    known = parser.parse_args(sys.argv[1:])
    if known.rounds < 1:
        raise UserError(f"--rounds {known.rounds}: 1 or more")
    began, load = time.monotonic(), machine.load_average()
    complaints = machine.complaints(load[0], machine.other_load(1.0))
    runs.prepare(1, 0)
    rows = measure(comparisons(), known.rounds, SECONDS)
    found = machine.about(began, load, torch.get_num_threads())
    found |= {"quiet": not complaints, "warnings": complaints, "rows": rows}
    known.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    if known.write:
        README.write_text(put(README.read_text(), table(found), BEGIN, END))
        print(f"written: {README}")
    print(f"written: {known.out}, {found['seconds']} s")


if __name__ == "__main__":
    run_main(main)
