"""What the workflow's jobs need: cores, memory, time, a partition; and the sum of it before anything starts.

The numbers come from `common/runs/costs.py`. On a cluster a job asks for them times the table's margin, since a scheduler
ends what takes more; on this machine runs are packed by what was measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import psutil

from common.papers import Resolved, Target
from common.runs import costs
from common.runs.costs import Cost
from common.runs.devices import visible_gpus
from common.say import say_aside

FAST_CORES = 16  # of a job whose many emulators step while a GPU learns
MEMORY_PART = 0.9  # of this machine's, that runs may fill
START_MINUTES = 10  # of every job: imports, a busy file system
RETRIES = 3  # of a training that is cut into pieces, beside its pieces
EVALUATION_MB = 1500  # of a film and its frames; estimate


class Needs:
    """flow: the workflow's answers (`common/workflow.py`). workflow: Snakemake's, None outside of it.

    attempts: of a training, beyond the first; None: as many as the profile says.
    """

    def __init__(self, flow: Any, workflow: Any = None):
        self.flow, self.workflow = flow, workflow
        self.attempts: int | None = None
        self._costs: dict[tuple[Target, str], Cost] = {}

    @cached_property
    def here(self) -> bool:
        """Whether jobs run on this machine, whose GPUs and memory then are shared out among them.

        Snakemake knows it only once the Snakefile is read: it is first asked when the graph of jobs is made.
        """
        if self.workflow is None:
            return True
        here = self.workflow.local_exec and self.flow.config["longest_job"] is None
        if here and self.workflow.is_main_process:
            for name, limit in limits_of_this_machine().items():
                if (
                    name not in self.workflow.resource_settings.resources
                ):  # `--resources gpu=4` says otherwise
                    self.workflow.register_resource(name, limit)
        return here

    # --- of one run ---

    @cached_property
    def speeds(self) -> dict[tuple[str, str, str], float]:
        """How fast finished runs in the folder of results were, beside the table."""
        return costs.speeds_in(self.flow.config["results"])

    @property
    def cores(self) -> int | None:
        return (os.cpu_count() or 1) if self.here else None

    def cost_of(self, target: Target, size: str) -> Cost:
        key = target, size
        if key not in self._costs:
            resolved = self.flow.resolved(target, size)
            speed = costs.speed_of(resolved, self.flow.device_of(target), self.speeds)
            self._costs[key] = costs.cost_of(resolved, self.cores, speed or 1.0)
        return self._costs[key]

    def _cost(self, wildcards: Any) -> Cost:
        return self.cost_of(self.flow.target_of(wildcards), wildcards.size)

    def _resolved(self, wildcards: Any) -> Resolved:
        return self.flow.run(wildcards)[0]

    @property
    def _margin(self) -> float:
        return 1.0 if self.here else costs.margin()

    # --- of a job ---

    def threads(self, wildcards: Any) -> int:
        """Cores that a training asks for."""
        return costs.threads_of(self._resolved(wildcards))

    def cpus(self, wildcards: Any) -> int | None:
        """Cores of a job on SLURM, where they are not its threads: the emulators of `fast` step beside a GPU."""
        settings = self._resolved(wildcards).settings
        emulators = settings.get("num_envs", 1)
        on_gpu = self.flow.gpus(wildcards) and emulators > costs.THREADS
        return min(emulators, FAST_CORES) if on_gpu else None

    def mem_mb(self, wildcards: Any) -> int:
        return math.ceil(self._cost(wildcards).memory_mb * self._margin / 100) * 100

    def evaluation_mem_mb(self, wildcards: Any) -> int:
        row = costs.row_of(self._resolved(wildcards))
        return math.ceil((row["memory_mb"] + EVALUATION_MB) * self._margin / 100) * 100

    def runtime(self, wildcards: Any) -> int:
        """Minutes of a training's job, at most the cluster's longest: what is left is done by the next attempt."""
        return min(self._minutes(self._cost(wildcards).seconds), self._longest)

    def evaluation_runtime(self, wildcards: Any) -> int:
        return min(self._minutes(self._cost(wildcards).evaluation_seconds), self._longest)

    def partition(self, wildcards: Any) -> str | None:
        """Of SLURM; None leaves it to the profile, and then to the cluster."""
        return self.flow.config["partition_gpu" if self.flow.gpus(wildcards) else "partition_cpu"]

    def _minutes(self, seconds: float) -> int:
        return math.ceil(seconds * costs.margin() / 60) + START_MINUTES

    @property
    def _longest(self) -> int:
        hours = self.flow.config["longest_job"]
        return 10**6 if hours is None else int(hours * 60)

    def cut_into_pieces(self, wanted: Iterable[Target]) -> None:
        """Allows as many attempts more as the longest training is cut into by the cluster's longest job."""
        pieces = 1
        for target in wanted if self.flow.config["longest_job"] else ():
            minutes = self._minutes(self.cost_of(target, self.flow.size(target)).seconds)
            pieces = max(pieces, math.ceil(minutes / self._longest))
        if pieces > 1:
            self.attempts = RETRIES + pieces - 1

    # --- of all ---

    def say_sum(self) -> None:
        """The last lines of a dry run; nothing where no graph of jobs was made."""
        if getattr(self.workflow, "_dag", None) is None:
            return
        jobs = self.workflow.dag.needrun_jobs(
            exclude_finished=False
        )  # a dry run marks all of them as finished
        if lines := self.sum_up(jobs):
            say_aside("\n".join(lines))

    def sum_up(self, jobs: Iterable[Any]) -> list[str]:
        """What trainings and evaluations to come cost: runs, core hours, GPU hours, disk. jobs: Snakemake's."""
        runs = core_seconds = gpu_seconds = longest = kept = meanwhile = memory = 0.0
        rough, unmeasured_gpu, scaled = set(), False, False
        for job in jobs:
            if job.rule.name not in ("train", "claims", "evaluate"):
                continue
            wildcards = job.wildcards
            cost, target = self._cost(wildcards), self.flow.target_of(wildcards)
            training = job.rule.name != "evaluate"
            seconds = cost.seconds if training else cost.evaluation_seconds
            device = self.flow.device_of(target)
            speed = costs.speed_of(self._resolved(wildcards), device, self.speeds)
            core_seconds += seconds * (cost.threads if training else 1)
            if device == "cuda":
                gpu_seconds += seconds
                unmeasured_gpu |= speed is None
            if not training:
                continue
            runs, longest = runs + 1, max(longest, seconds)
            kept, meanwhile = kept + cost.kept_mb, max(meanwhile, cost.meanwhile_mb)
            memory, scaled = max(memory, cost.memory_mb), scaled or speed is not None
            if not cost.measured and speed is None:
                rough.add(target.agent)
        if not runs and not core_seconds:
            return []
        lines = [
            f"in sum: {count(runs, 'run')} to train, {number(core_seconds / 3600)} core hours, "
            f"{number(gpu_seconds / 3600)} GPU hours, {number(kept / 1000)} GB of disk in the end"
            + (f" and up to {number(meanwhile / 1000)} GB more for each that trains" if meanwhile else ""),
            f"    the longest run takes {number(longest / 3600)} hours, the largest {number(memory / 1000)} GB of memory",
        ]
        source = "finished runs in the folder of results, else the table common/runs/costs.yaml" if scaled else (
            "the table common/runs/costs.yaml (a core or two, without a GPU); finished runs in the folder of results would tell more"
        )  # fmt: skip
        lines.append(f"    by the rates of {source}")
        if unmeasured_gpu:
            lines.append(
                "    no run on a GPU is finished here: GPU hours are those that a CPU would take, an upper bound"
            )
        if rough:
            lines.append(f"    estimates, never measured: {', '.join(sorted(rough))}")
        return lines


def count(value: float, what: str) -> str:
    return f"{value:,.0f} {what}{'' if value == 1 else 's'}"


def number(value: float) -> str:
    """Two significant digits below ten, whole above: 0.031, 4.2, 1,230."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def limits_of_this_machine() -> dict[str, int]:
    """Snakemake's resources where jobs run here and nothing else is said: memory, and a training for each GPU."""
    memory = psutil.virtual_memory().total / 1e6
    return {"gpu": max(len(visible_gpus()), 1), "mem_mb": int(memory * MEMORY_PART)}
