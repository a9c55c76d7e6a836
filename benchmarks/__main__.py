"""How fast the replications run here, in one command:

    ./run python -m benchmarks [--quick] [--only NAME,...] [--out FILE]

Everything is measured in one run, in rounds that visit each subject in turn (A, B, A, B, ...), each in a process of its own that
sleeps while another is measured. README.md says what is measured and how; the figures go to results.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import figures, learning, machine
from benchmarks.process import Worker, WorkerFailed
from common import papers as replications
from common.errors import UserError, run_main, suggestion

ROOT = machine.ROOT
INSTALL = "./run pip install -r benchmarks/requirements.txt"
EVALUATION_SHARE = 125_000 / 250_000  # DQN's evaluation steps per training step


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    mode: str
    rounds: int
    scaling_rounds: int
    emulator_steps: int  # agent steps of a slice
    training_steps: int
    ppo_steps: int  # of a slice, whole iterations of 1,024
    evaluation_steps: int
    updates: int  # of a slice, whole, and as many in parts
    samples: int
    sizes: tuple[int, ...]  # numbers of environments
    scaling_steps: int  # agent steps of a slice, over all environments
    capacity: int  # transitions of the full replay memory
    training_capacity: int  # transitions; training must not reach a checkpoint or a copy while it is timed
    soak: int  # updates with a full ring
    checkpoint_steps: int  # agent steps between two checkpoints
    limit: float  # seconds after which no further round begins
    whole: bool  # memory figures are of a million transitions, or not reported
    paper_rounds: int
    paper_capacity: int  # transitions; as for training_capacity
    fast_steps: int  # of a slice, whole steps of 64 environments
    on_policy_steps: int  # of a slice, rounded up to whole iterations
    asynchronous_steps: int  # of a whole training


FULL = Plan(
    "full",
    9,
    3,
    1500,
    320,
    1024,
    400,
    15,
    300,
    (1, 2, 4, 8, 16, 32, 64, 128, 256),
    1200,
    1_000_000,
    200_000,
    400,
    2000,
    840,
    True,
    3,
    60_000,
    640,
    960,
    4000,
)
QUICK = Plan(
    "quick",
    3,
    1,
    300,
    60,
    1024,
    100,
    3,
    100,
    (1, 4),
    240,
    50_000,
    50_000,
    20,
    200,
    45,
    False,
    1,
    20_000,
    128,
    80,
    2000,
)
OWN_PARTS = ("dqn", "ppo", "ddpg")  # papers that are measured beside a peer, in parts of their own


@dataclass(frozen=True)
class Probe:
    """One thing measured once a round. `measure` returns a sample for each figure it gives."""

    worker: Worker
    names: tuple[str, ...]
    measure: Callable[[], dict[str, float]]


class Bench:
    """The processes, what to ask them each round, and the samples so far."""

    def __init__(self, plan: Plan, folder: Path, threads: int):
        self.plan, self.folder, self.threads = plan, folder, threads
        self.workers: dict[str, Worker] = {}
        self.samples: dict[str, list[float]] = defaultdict(list)
        self.rounds: list[Probe] = []
        self.scaling: list[Probe] = []
        self.papers: list[Probe] = []
        self.at_start: list[Callable[[], None]] = []  # before the first round
        self.at_end: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []  # when all else is measured and every process has ended
        self.notes: list[str] = []
        self.began = time.monotonic()

    def worker(self, name: str, target: str, **options: Any) -> Worker:
        """The process of that name, started when first asked for."""
        if name not in self.workers:
            self.say(f"starting {name}")
            own = self.folder / name
            own.mkdir()
            options = {"paper": "dqn", "threads": self.threads, "folder": own} | options
            self.workers[name] = Worker(name, f"benchmarks.{target}", options, self.folder)
        return self.workers[name]

    def probe(self, worker: Worker, names: tuple[str, ...], measure: Callable[[], dict[str, float]]) -> None:
        """One that measures all that another does, and perhaps more, takes its place."""
        if not any(set(names) <= set(probe.names) for probe in self.rounds):
            self.rounds = [probe for probe in self.rounds if not set(probe.names) <= set(names)]
            self.rounds.append(Probe(worker, names, measure))

    def run(self, probes: list[Probe], rounds: int, what: str) -> None:
        """Visits every probe once a round. A process that fails is left out from then on."""
        broken: set[str] = set()
        for probe in probes:  # nothing is timed while another process starts
            with contextlib.suppress(WorkerFailed):  # the first slice says it again
                _ = probe.worker.ready
        for number in range(1, rounds + 1 if probes else 1):
            if number > 1 and time.monotonic() - self.began > self.plan.limit:
                self.note(f"{what}: {number - 1} of {rounds} rounds, for lack of time")
                break
            self.samples["other_load_cores"].append(machine.other_load(0.5))
            self.say(f"{what}: round {number} of {rounds}")
            for probe in probes:
                if probe.worker.name in broken:
                    continue
                try:
                    for name, value in probe.measure().items():
                        self.samples[name].append(value)
                except WorkerFailed as problem:
                    broken.add(probe.worker.name)
                    self.note(f"{', '.join(probe.names)}: {problem}")

    def attempt(self, calls: list[Callable[[], None]]) -> None:
        for call in calls:
            try:
                call()
            except WorkerFailed as problem:
                self.note(str(problem))

    def note(self, text: str) -> None:
        """Something that the reader of the figures must know."""
        self.notes.append(text)
        print(f"note: {text}", flush=True)

    def say(self, text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)

    def close(self, remove: bool = False) -> None:
        """Ends every process. remove: also what it wrote, to have the disk back."""
        for worker in self.workers.values():
            worker.hang_up()
        for name, worker in self.workers.items():
            worker.close()
            if remove:
                shutil.rmtree(self.folder / name, ignore_errors=True)
        self.workers.clear()


# --- the parts ---


def emulator(bench: Bench, kinds: tuple[str, ...] = ("emulator", "emulator_rgb")) -> None:
    """The emulator alone, one environment."""
    worker = bench.worker("emulation", "emulation:worker")
    names = {kind: f"{kind}_steps_per_second" for kind in kinds}

    def measure() -> dict[str, float]:
        rates = worker.ask("rates", kinds, 1, bench.plan.emulator_steps)
        return {names[kind]: rate for kind, rate in rates.items()}

    bench.probe(worker, tuple(names.values()), measure)


def environment(bench: Bench) -> None:
    """The environment layer beside the emulator alone."""
    emulator(bench, ("emulator", "env_ale", "emulator_rgb", "env_nature"))


def replay_worker(bench: Bench) -> Worker | None:
    """The process with a full ring, or None (and a note) when there is no room for one."""
    if "replay" in bench.workers:
        return bench.workers["replay"]
    need = bench.plan.capacity * 1.1 * 84 * 84 / 1e9
    disk = shutil.disk_usage(bench.folder).free / 1e9
    memory = psutil.virtual_memory().available / 1e9
    for what, there, wanted in (
        ("GB free on the results' disk", disk, need + 1),
        ("GB of memory", memory, need + 1),
    ):
        if there < wanted:
            bench.note(f"replay and memory are left out: {there:.1f} {what}, needed are {wanted:.1f}")
            return None
    worker = bench.worker("replay", "memory:worker", capacity=bench.plan.capacity)
    bench.say(f"filling a replay memory of {bench.plan.capacity:,} transitions ({need:.1f} GB)")
    worker.filled = worker.ask("fill")
    return worker


def replay(bench: Bench) -> None:
    """Sampling from a full replay memory, and its bytes."""
    worker = replay_worker(bench)
    if worker is None:
        return
    size = worker.ask("bytes")
    bench.samples["replay_transitions"].append(bench.plan.capacity)
    for name, key in (("replay", "disk"), ("replay_slack", "slack"), ("replay_index", "index")):
        bench.samples[f"{name}_gb_per_million"].append(size[key])
    bench.probe(
        worker, ("replay_sample_ms",), lambda: {"replay_sample_ms": worker.ask("sample", bench.plan.samples)}
    )


def memory(bench: Bench) -> None:
    """Resident memory and checkpoints beside a full replay memory."""
    worker = replay_worker(bench)
    if worker is None:
        return
    for written, resident in worker.filled["curve"]:
        bench.samples[figures.RESIDENT.format(transitions=written)].append(resident)
    if not bench.plan.whole:
        bench.note("resident memory and checkpoints are of a million transitions: not measured with --quick")
        return
    bench.samples["rss_empty_gb"].append(worker.filled["empty"])
    bench.samples["rss_full_gb"].append(worker.filled["full"])

    def checkpoint() -> dict[str, float]:
        took = worker.ask("checkpoint", bench.plan.checkpoint_steps)
        return {"checkpoint_stall_seconds": took["stall"], "checkpoint_write_seconds": took["write"]}

    def soak() -> None:
        bench.say(f"{bench.plan.soak} updates with the full ring")
        bench.samples["rss_growth_gb"].append(worker.ask("soak", bench.plan.soak) - worker.filled["full"])
        bench.samples["peak_rss_gb"].append(worker.ask("peak"))

    bench.probe(worker, ("checkpoint_stall_seconds", "checkpoint_write_seconds"), checkpoint)
    bench.at_end.append(soak)


def update(bench: Bench) -> None:
    """One DQN update and its parts."""
    worker = bench.worker("update", "learning:update_worker")
    parts = {"whole": "update", "target_forward": None, "forward_backward": None, "optimiser": None}
    names = {key: f"dqn_{name or key}_ms" for key, name in parts.items()}

    def measure() -> dict[str, float]:
        answer = worker.ask("update", bench.plan.updates)
        return {names[key]: value for key, value in answer.items()}

    bench.probe(worker, tuple(names.values()), measure)


def dqn(bench: Bench) -> None:
    """DQN on Pong end to end, Stable-Baselines3's beside it, and the emulator alone."""
    emulator(bench, ("emulator",))
    steps, capacity = bench.plan.training_steps, bench.plan.training_capacity

    def rate(worker: Worker, name: str, count: int) -> None:
        bench.probe(worker, (name,), lambda: {name: count / worker.ask("steps", count)})

    rate(bench.worker("dqn", "learning:training_worker", capacity=capacity), "dqn_steps_per_second", steps)
    if sb3_is_there(bench):
        peer = bench.worker("sb3", "learning:sb3_worker", capacity=10_000)
        memory = bench.samples["sb3_replay_gb_per_million"]
        bench.at_start.append(lambda: memory.append(peer.ready / 1000))  # from bytes per transition
        rate(peer, "sb3_dqn_steps_per_second", steps)
    evaluation = bench.worker("evaluation", "learning:evaluation_worker")
    rate(evaluation, "dqn_evaluation_steps_per_second", bench.plan.evaluation_steps)


def ppo(bench: Bench) -> None:
    """PPO on Pong end to end, as the paper and as the released code, and Stable-Baselines3's beside it."""
    steps = bench.plan.ppo_steps

    def rate(worker: Worker, name: str) -> None:
        bench.probe(worker, (name,), lambda: {name: steps / worker.ask("steps", steps)})

    for name, variant in (("ppo", None), ("ppo2", "ppo2")):
        rate(
            bench.worker(name, "learning:on_policy_worker", paper="ppo", variant=variant),
            f"{name}_steps_per_second",
        )
        if name == "ppo2" and sb3_is_there(bench):
            rate(bench.worker("sb3_ppo", "learning:sb3_ppo_worker"), "sb3_ppo_steps_per_second")


def control(bench: Bench) -> None:
    """PPO on two MuJoCo tasks as in the paper, and Stable-Baselines3's beside it; one thread each."""
    steps = 2 * bench.plan.ppo_steps  # a whole iteration
    peer_is_there = sb3_is_there(bench)
    for task in ("half_cheetah", "hopper"):
        subjects = [("ppo", "on_policy_worker", {"paper": "ppo"})]
        subjects += [("sb3", "sb3_control_worker", {})] if peer_is_there else []
        for who, target, options in subjects:
            worker = bench.worker(
                f"{who}_{task}", f"learning:{target}", task=task, **(options | {"threads": 1})
            )
            name = f"{who}_{task}_steps_per_second"
            bench.probe(worker, (name,), lambda w=worker, n=name: {n: steps / w.ask("steps", steps)})


def ddpg(bench: Bench) -> None:
    """DDPG on HalfCheetah as in the paper, and Stable-Baselines3's beside it; one thread each."""
    steps, options = bench.plan.training_steps, {"task": "half_cheetah", "threads": 1}
    capacity = bench.plan.training_capacity
    subjects = {"ddpg": ("training_worker", {"paper": "ddpg"})}
    subjects |= {"sb3_ddpg": ("sb3_ddpg_worker", {})} if sb3_is_there(bench) else {}
    for who, (target, own) in subjects.items():
        worker = bench.worker(who, f"learning:{target}", **(own | options | {"capacity": capacity}))
        name = f"{who}_steps_per_second"
        bench.probe(worker, (name,), lambda w=worker, n=name: {n: steps / w.ask("steps", steps)})


def papers(bench: Bench) -> None:
    """Every other paper end to end, and DQN's variant fast beside DQN; in few rounds of their own, after everything else."""
    bench.later.append(lambda: start_papers(bench))


def playing_papers() -> list[str]:
    """Those with a game of Atari, and those with a part of their own; tables and self-play are no match for an emulator."""
    found = replications.load_papers()
    games = {name for name, paper in found.items() if any(t.kind == "atari" for t in paper.tasks.values())}
    return [name for name in found if name in games or name in OWN_PARTS]


def start_papers(bench: Bench) -> None:
    plan = bench.plan

    def started(name: str, kind: str, **options: Any) -> Worker:
        """One after the other: many that warm up at once take longer than all in turn."""
        worker = bench.worker(name, f"learning:{kind}", **options)
        with contextlib.suppress(WorkerFailed):  # its first slice says it again
            _ = worker.ready
        return worker

    def add(worker: Worker, name: str, measure: Callable[[], float]) -> None:
        bench.papers.append(Probe(worker, (name,), lambda: {name: measure()}))

    for paper in playing_papers():
        if paper in OWN_PARTS:
            continue
        name, kind = f"{paper}_steps_per_second", learning.kind_of_training(paper)
        options = {"paper": paper, "capacity": plan.paper_capacity, "children": kind == "asynchronous_worker"}
        worker = started(paper, kind, **options)
        if kind == "asynchronous_worker":
            add(worker, name, lambda w=worker: w.ask("rate", plan.asynchronous_steps))
            continue
        count = plan.training_steps
        if kind == "on_policy_worker":
            count = learning.whole_iterations(paper, plan.on_policy_steps)
        add(worker, name, lambda w=worker, n=count: n / w.ask("steps", n))

    beside = started("dqn_beside_fast", "training_worker", capacity=plan.paper_capacity)
    fast = started("dqn_fast", "training_worker", variant="fast", capacity=plan.training_capacity)

    def pair() -> dict[str, float]:
        paper = plan.training_steps / beside.ask("steps", plan.training_steps)
        rate = plan.fast_steps / fast.ask("steps", plan.fast_steps)
        return {"dqn_fast_steps_per_second": rate, "dqn_fast_over_dqn": rate / paper}

    bench.papers.append(Probe(fast, ("dqn_fast_steps_per_second", "dqn_fast_over_dqn"), pair))


def priorities(bench: Bench) -> None:
    """Batches by priority against uniform ones."""
    worker = bench.worker("priorities", "prioritised:worker")

    def measure() -> dict[str, float]:
        took = worker.ask("sample", bench.plan.samples)
        return {"priorities_over_uniform": took["priorities"] / took["uniform"]}

    bench.probe(worker, ("priorities_over_uniform",), measure)


def sb3_is_there(bench: Bench) -> bool:
    if importlib.util.find_spec("stable_baselines3") is not None:
        return True
    bench.note(f"Stable-Baselines3 is not installed, its figures are left out; to have them: {INSTALL}")
    return False


def scaling(bench: Bench) -> None:
    """Agent steps/s against the number of environments."""
    worker = bench.worker("emulation", "emulation:worker")
    kinds = ("emulator", "env_ale", "env_nature")
    for envs in bench.plan.sizes:
        names = {kind: figures.SCALING.format(kind=kind, envs=envs) for kind in kinds}
        for kind in kinds:
            worker.ask("make", kind, envs)

        def measure(envs: int = envs, names: dict[str, str] = names) -> dict[str, float]:
            rates = worker.ask("rates", kinds, envs, max(bench.plan.scaling_steps, 20 * envs))
            return {names[kind]: rate for kind, rate in rates.items()}

        bench.scaling.append(Probe(worker, tuple(names.values()), measure))


PARTS: dict[str, Callable[[Bench], None]] = {
    "emulator": emulator,
    "environment": environment,
    "update": update,
    "dqn": dqn,
    "ppo": ppo,
    "control": control,
    "ddpg": ddpg,
    "replay": replay,
    "memory": memory,
    "priorities": priorities,
    "scaling": scaling,
    "papers": papers,
}


# --- one run ---


def measure(
    plan: Plan, parts: list[str], threads: int, folder: Path
) -> tuple[dict[str, list[float]], list[str]]:
    """Samples of every figure, and notes on what is missing. folder: an empty one, on the disk where results go."""
    bench = Bench(plan, folder, threads)
    try:
        for name in parts:
            try:
                PARTS[name](bench)
            except WorkerFailed as problem:
                bench.note(f"{name} is left out: {problem}")
        bench.attempt(bench.at_start)
        bench.run(bench.rounds, plan.rounds, "measuring")
        bench.run(bench.scaling, plan.scaling_rounds, "numbers of environments")
        bench.attempt(bench.at_end)
        if bench.later:
            bench.close(remove=True)  # the memory and the disk are needed again
            bench.attempt(bench.later)
            bench.run(bench.papers, plan.paper_rounds, "papers")
    finally:
        bench.close()
    return dict(bench.samples), bench.notes


def report(samples: dict[str, list[float]], notes: list[str], about: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json: `figures.results`, and what was measured where and when."""
    flat = figures.results(samples, EVALUATION_SHARE)
    other = flat["other_load_cores"]
    found = machine.complaints(about["load_average"]["start"][0], other["median"] if other else None)
    return about | {"quiet": not found, "warnings": found, "notes": notes} | flat


@contextlib.contextmanager
def temporary_folder(results: Path) -> Iterator[Path]:
    """On the disk where runs are kept; removed at the end, also after SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".benchmark-", dir=results))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Throughput and memory; see benchmarks/README.md."
    )
    parser.add_argument(
        "--quick", action="store_true", help="a look, without `papers`; for figures to quote, do without"
    )
    parser.add_argument("--only", default="", metavar="NAME,...", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument(
        "--out",
        type=Path,
        help="where the figures go; without it benchmarks/results.json, or with --quick or --only results/benchmark.json",
    )
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: one per core, at most 4")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="the disk to measure on")
    known = parser.parse_args(given)
    known.parts = list(dict.fromkeys(name for name in known.only.split(",") if name)) or [
        name for name in PARTS if not (known.quick and name == "papers")
    ]
    for name in known.parts:
        if name not in PARTS:
            raise UserError(f"--only {name}: no such measurement{suggestion(name, PARTS)}")
    if known.threads < 0:
        raise UserError(f"--threads {known.threads}: 0 or more")
    if known.out is None:
        partial = known.quick or set(known.parts) != set(PARTS)
        known.out = known.results / "benchmark.json" if partial else ROOT / "benchmarks" / "results.json"
    if known.out.suffix != ".json":
        raise UserError(f"--out {known.out}: a name that ends in .json")
    return known


def main() -> None:
    known = arguments(sys.argv[1:])
    plan = QUICK if known.quick else FULL
    threads = known.threads or min(os.cpu_count() or 1, 4)
    began, load = time.monotonic(), machine.load_average()
    for complaint in machine.complaints(load[0], machine.other_load(1.0)):
        print(f"warning: {complaint}; the figures will be too low, and ratios uncertain", flush=True)
    with temporary_folder(known.results) as folder:
        samples, notes = measure(plan, known.parts, threads, folder)
    about = machine.about(began, load, threads) | {"mode": plan.mode, "measured": known.parts}
    found = report(samples, notes, about)
    known.out.parent.mkdir(parents=True, exist_ok=True)
    known.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{figures.table(found)}\n")
    for text in [*(f"warning: {w}" for w in found["warnings"]), *(f"note: {n}" for n in notes)]:
        print(text)
    print(
        f"{about['seconds']} s on {about['machine']['cpu']}, {about['machine']['cores']} cores, {threads} threads of PyTorch"
    )
    print(f"written: {known.out}")


if __name__ == "__main__":
    run_main(main)
