"""How fast the replications run on an NVIDIA GPU with many cores, in one command:

    ./run python -m benchmarks.gpu [--pong] [--out FILE]
    ./run python -m benchmarks.gpu --device cpu --quick     # every part in tiny form, to test this script

As in `python -m benchmarks`, subjects are processes that are measured in turn, in rounds. The figures go to gpu.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import figures, gpu_subjects, machine
from benchmarks.__main__ import Bench, temporary_folder
from benchmarks.figures import RATE, Figure
from benchmarks.process import Worker, WorkerFailed
from common.errors import UserError, run_main

ENVS = 64  # of DQN's variant fast
CORES = 16  # of the machine that the goals are stated for
US = "microseconds"
FIGURES = {
    "dqn_update_us": Figure(US, "one DQN update, batch 32, gathered from the GPU's memory; launched singly"),
    "dqn_update_graph_us": Figure(US, "the same as one CUDA graph", ("<=", 150)),
    "host_waits_per_update": Figure("waits", "of the host for the GPU, in an update as one graph", ("<=", 0)),
    "emulator_steps_per_second": Figure(
        RATE, "bare AtariVectorEnv, 84x84 gray, 64 environments, random actions"
    ),
    "dqn_fast_steps_per_second": Figure(
        RATE,
        "DQN's variant fast on Pong, learning, checkpoints included, without evaluation phases",
        (">=", 12_000),
    ),
    "dqn_fast_over_emulator": Figure("ratio", "that over the emulator alone", (">=", 0.6)),
    "ppo_steps_per_second": Figure(
        RATE, "PPO on Pong, the paper's network and 8 environments", (">=", 9_000)
    ),
    "minutes_to_18_on_pong": Figure(
        "minutes",
        "DQN's variant fast until an evaluation phase's mean is 18, the phases' own time excluded",
        ("<=", 3),
    ),
    "minutes_to_18_on_pong_with_phases": Figure("minutes", "the same, the phases' own time included"),
    "other_load_cores": Figure("cores", "used by other processes while every measured one was paused"),
}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    mode: str
    rounds: int
    updates: int  # of a slice
    update_capacity: int  # transitions
    watched: int  # updates whose waits are counted
    warm_up: int  # updates
    emulator_steps: int  # agent steps of a slice
    fast_steps: int  # of a slice, whole steps of 64 environments
    fast_warm_up: int  # agent steps
    capacity: int  # transitions; the paper's, so that checkpoints come as often as in a run
    ppo_steps: int  # of a slice, whole iterations of 1,024
    pong: dict[str, int]
    limit: float  # seconds after which no further round begins


FULL = Plan(
    "full",
    7,
    2000,
    100_000,
    100,
    200,
    64_000,
    64_000,
    32_000,
    1_000_000,
    20_480,
    gpu_subjects.PONG,
    limit=600,
)
TINY_PONG = {"training_steps": 640, "replay_capacity": 2000, "replay_start": 200, "evaluation_period": 320}
TINY_PONG |= {"evaluation_steps": 40, "held_out_states": 20}
QUICK = Plan("quick", 1, 2, 2000, 2, 1, 640, 128, 0, 20_000, 1024, TINY_PONG, limit=600)


def updates(bench: Bench, device: str) -> None:
    """DQN's update, launched singly and as one graph, and how often it waits for the GPU."""
    plan = bench.plan
    worker = bench.worker(
        "update",
        "gpu_subjects:update_worker",
        device=device,
        capacity=plan.update_capacity,
        warm_up=plan.warm_up,
    )

    def rate(name: str, kind: str) -> None:
        bench.probe(worker, (name,), lambda: {name: 1e6 * worker.ask("seconds", kind, plan.updates)})

    rate("dqn_update_us", "eager")
    if device != "cuda":
        bench.note("dqn_update_graph_us and host_waits_per_update: there is no CUDA graph on a CPU")
        return
    rate("dqn_update_graph_us", "graph")
    waits = bench.samples["host_waits_per_update"]
    bench.at_end.append(lambda: waits.append(worker.ask("host_waits", plan.watched)))


def training(bench: Bench, device: str) -> None:
    """The scripts' own loops, and the emulator alone beside them."""
    plan = bench.plan
    emulator = bench.worker("emulation", "emulation:worker")
    emulator.ask("make", "emulator", ENVS)

    def add(worker: Worker, name: str, steps: int) -> None:
        bench.probe(worker, (name,), lambda: {name: steps / worker.ask("steps", steps)})

    name = "emulator_steps_per_second"
    bench.probe(
        emulator,
        (name,),
        lambda: {name: emulator.ask("rates", ("emulator",), ENVS, plan.emulator_steps)["emulator"]},
    )
    fast = {"variant": "fast", "device": device, "capacity": plan.capacity, "warm_up": plan.fast_warm_up}
    add(
        bench.worker("dqn_fast", "learning:training_worker", **fast),
        "dqn_fast_steps_per_second",
        plan.fast_steps,
    )
    ppo = bench.worker(
        "ppo", "learning:on_policy_worker", paper="ppo", device=device, settings=graph_of("ppo")
    )
    add(ppo, "ppo_steps_per_second", plan.ppo_steps)


def graph_of(paper: str) -> dict[str, Any]:
    """The setting that launches a script's update as one graph, where it has one."""
    config = importlib.import_module(f"replications.{paper}.train").Config
    return {"cuda_graph": True} if any(f.name == "cuda_graph" for f in dataclasses.fields(config)) else {}


def pong(bench: Bench, device: str) -> None:
    """Minutes until DQN's variant fast has a mean of 18; after everything else."""

    def play() -> None:
        overrides = bench.plan.pong
        worker = bench.worker(
            "pong", "gpu_subjects:pong_worker", device=device, overrides=overrides, patience=7200
        )
        bench.say(f"Pong: at most {overrides['training_steps']:,} agent steps")
        found = worker.ask("run")
        if found is None:
            bench.note(
                f"minutes_to_18_on_pong: no phase's mean was 18 within {overrides['training_steps']:,} agent steps"
            )
            return
        bench.samples["minutes_to_18_on_pong"].append(found["training"] / 60)
        bench.samples["minutes_to_18_on_pong_with_phases"].append(found["whole"] / 60)

    bench.later.append(play)


def measure(plan: Plan, device: str, asked: bool, threads: int, folder: Path) -> tuple[dict, list[str]]:
    """Samples of every figure, and notes on what is missing. asked: whether Pong is played to 18."""
    bench = Bench(plan, folder, threads)
    try:
        for part in (updates, training, *([pong] if asked else [])):
            try:
                part(bench, device)
            except WorkerFailed as problem:
                bench.note(f"{part.__name__} is left out: {problem}")
        if not asked:
            bench.note("minutes_to_18_on_pong: not asked for (--pong)")
        bench.run(bench.rounds, plan.rounds, "measuring")
        bench.attempt(bench.at_end)
        bench.close(remove=True)
        bench.attempt(bench.later)
    finally:
        bench.close()
    return dict(bench.samples), bench.notes


def results(samples: dict[str, list[float]], notes: list[str], about: dict[str, Any]) -> dict[str, Any]:
    """The content of gpu.json: every figure of FIGURES, null where it was not measured, and what was measured where."""
    known = {name: values for name, values in samples.items() if values}
    above, below = "dqn_fast_steps_per_second", "emulator_steps_per_second"
    if above in known and below in known:
        known["dqn_fast_over_emulator"] = figures.ratios(known[above], known[below])
    flat = {
        name: figures.summary(known[name], f.unit) if name in known else None for name, f in FIGURES.items()
    }
    other = flat["other_load_cores"]
    found = machine.complaints(about["load_average"]["start"][0], other["median"] if other else None)
    if about["machine"]["cores"] < CORES:
        found.append(f"the goals are stated for {CORES} cores, this machine has {about['machine']['cores']}")
    return about | {"quiet": not found, "warnings": found, "notes": notes} | flat


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Throughput on an NVIDIA GPU; see benchmarks/README.md."
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to test this script")
    parser.add_argument("--quick", action="store_true", help="every part in tiny form; no figures to quote")
    parser.add_argument("--pong", action="store_true", help="also play Pong until the mean is 18")
    parser.add_argument(
        "--out", type=Path, help="without it benchmarks/gpu.json, or with --quick results/gpu.json"
    )
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: one per core, at most 4")
    parser.add_argument(
        "--results", type=Path, default=machine.ROOT / "results", help="the disk to measure on"
    )
    known = parser.parse_args(given)
    if known.device == "cpu" and not known.quick:
        raise UserError(
            "--device cpu only tests this script: add --quick. A CPU is measured by python -m benchmarks"
        )
    if known.device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        missing = (
            "no NVIDIA GPU or driver is found" if built else "it was built without CUDA: install a CUDA build"
        )
        raise UserError(
            f"PyTorch {torch.__version__} cannot use an NVIDIA GPU here: {missing}. "
            "To try this script without one: --device cpu --quick"
        )
    if known.threads < 0:
        raise UserError(f"--threads {known.threads}: 0 or more")
    if known.out is None:
        known.out = known.results / "gpu.json" if known.quick else machine.ROOT / "benchmarks" / "gpu.json"
    if known.out.suffix != ".json":
        raise UserError(f"--out {known.out}: a name that ends in .json")
    return known


def main() -> None:
    known = arguments(sys.argv[1:])
    plan = QUICK if known.quick else FULL
    threads = known.threads or min(os.cpu_count() or 1, 4)
    began, load = time.monotonic(), machine.load_average()
    with temporary_folder(known.results) as folder:
        samples, notes = measure(plan, known.device, known.pong, threads, folder)
    about = machine.about(began, load, threads) | {"mode": plan.mode, "device": known.device}
    gpu = torch.cuda.get_device_name() if known.device == "cuda" else None
    about["machine"] |= {"gpu": gpu, "cuda": torch.version.cuda}
    found = results(samples, notes, about)
    known.out.parent.mkdir(parents=True, exist_ok=True)
    known.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{figures.table(found, FIGURES)}\n")
    for text in [*(f"warning: {w}" for w in found["warnings"]), *(f"note: {n}" for n in notes)]:
        print(text)
    print(
        f"{about['seconds']} s on {gpu or 'no GPU'}; {about['machine']['cpu']}, {about['machine']['cores']} cores"
    )
    print(f"written: {known.out}")


if __name__ == "__main__":
    run_main(main)
