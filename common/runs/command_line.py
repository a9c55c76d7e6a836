"""What `python -m replications.<paper>.train` does: its flags, the device, an estimate of the time, the run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import tyro

from common import papers
from common.errors import UserError, disk_error, run_main
from common.files import folder_named
from common.learning.layers import make_deterministic
from common.runs import tracking
from common.runs.costs import total_seconds
from common.runs.devices import claim_gpu, detect_device
from common.runs.estimate import measure
from common.runs.provenance import ROOT
from common.runs.run import Run
from common.say import say

SHORT = 50_000  # agent steps; below, no estimate is made


def main(paper: str, config_class: type, train: Callable) -> None:
    """The whole command. `train(config, run)` is the script's."""

    def run_it() -> None:
        known, resolved = parse(paper, config_class, sys.argv[1:])
        tracking.mode()
        threads = prepare(known.seed, known.threads, not known.nondeterministic)
        command = " ".join([f"python -m replications.{paper}.train", *sys.argv[1:]])
        run = Run(
            resolved, known.seed, device=known.device, threads=threads, results=known.results, command=command,
            stop_when_reached=known.stop_when_reached,
        )  # fmt: skip
        try:
            if run.open(known.fresh, known.resume_changed):
                say(f"finished already: {run.folder.path}")
                return
            if not run.checkpoints.all() and resolved.settings["training_steps"] >= SHORT:
                say_how_long(run)
                prepare(known.seed, threads, not known.nondeterministic)  # timing used the generators
            train(config_class(**resolved.settings), run)
        except BaseException as problem:
            run.status("failed", str(problem))
            if isinstance(problem, OSError):
                raise disk_error(problem, run.folder.path) from problem
            raise
        finally:
            run.close()

    run_main(run_it)


def parse(
    paper: str, config_class: type, arguments: list[str], script: str = "train"
) -> tuple[argparse.Namespace, papers.Resolved]:
    """The command line: which run, and any `Config` field as a flag."""
    parser = argparse.ArgumentParser(
        prog=f"python -m replications.{paper}.{script}",
        usage="%(prog)s --task TASK [OPTIONS]",
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", default=None, help="a task of paper.yaml, e.g. pong")
    add("--variant", default=None)
    add("--budget", default="auto", help="smoke, hour, day, paper, frames-N or auto")
    add("--seed", type=int, default=1)
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--threads", type=int, default=0, help="of PyTorch; 0: one per core, at most 4")
    add("--results", type=lambda text: Path(folder_named(text, "--results")), default=ROOT / "results")
    add("--fresh", action="store_true", help="start over; the earlier run is put aside")
    add(
        "--resume-changed",
        action="store_true",
        help="go on from a checkpoint of changed code, noted on the page",
    )
    add(
        "--nondeterministic",
        action="store_true",
        help="allow kernels that give other bytes each time; the page says so",
    )
    add(
        "--stop-when-reached",
        action="store_true",
        help="end after two evaluation phases at the published score",
    )
    known, rest = parser.parse_known_args(arguments)
    if "--help" in rest or "-h" in rest:
        show_help(parser, known, paper, config_class)
    papers.check_seed(known.seed)
    if known.threads < 0:
        raise UserError(f"--threads {known.threads}: 0 (one per core, at most 4) or more")
    folder = papers.load_paper(paper)
    if known.task is None:
        raise UserError(f"--task is missing; {paper} has {', '.join(folder.tasks)}")
    _, task = papers.find_task(folder, known.variant, known.task)
    if task.script != script:
        raise UserError(
            f"the task {task.name!r} is not of this script; "
            f"run python -m replications.{paper}.{task.script} --task {task.name}"
        )
    own = getattr(
        sys.modules[config_class.__module__], "DEVICE", None
    )  # A3C's workers are processes of the CPU
    if own is not None and known.device not in ("auto", own):
        raise UserError(f"--device {known.device}: {paper} runs on the {own} only; leave the flag out")
    known.device = pick_device(own or known.device)
    if papers.is_overridden(known.budget):
        raise UserError(
            f"--budget {known.budget}: its settings cannot be told from that name; give --budget "
            f"{papers.budget_of(known.budget)} and the settings"
        )
    budget = papers.resolve_budget(known.budget, task, known.device)
    resolved = papers.resolve(folder, known.variant, known.task, budget)
    # What a script cannot have on this machine (A3C: as many workers as the paper) it says itself
    fit = getattr(sys.modules[config_class.__module__], "fit_to_machine", lambda _: {})
    fitted = resolved.settings | fit(config_class(**resolved.settings))
    config = tyro.cli(config_class, default=config_class(**fitted), args=rest)
    overrides = {k: v for k, v in dataclasses.asdict(config).items() if v != resolved.settings[k]}
    asked = {k: v for k, v in overrides.items() if v != fitted[k]}
    size = papers.overridden_size(
        budget, asked
    )  # a folder of its own: it never passes for the paper's settings
    run = papers.resolve(folder, known.variant, known.task, size, overrides)
    return known, dataclasses.replace(run, asked=asked)


def show_help(
    parser: argparse.ArgumentParser, known: argparse.Namespace, paper: str, config_class: type
) -> None:
    """Prints one usage and every setting, with the value that it has for the task and budget that were named; ends the process."""
    default, of = config_class(), "the paper's; those of a task and size with --task and --budget"
    if known.task is not None:
        folder = papers.load_paper(paper)
        _, task = papers.find_task(folder, known.variant, known.task)
        device = detect_device() if known.device == "auto" else known.device
        budget = papers.resolve_budget(known.budget, task, device)
        default = config_class(**papers.resolve(folder, known.variant, known.task, budget).settings)
        of = f"those of {task.name} at size {budget}"
    notes = (config_class.__doc__ or "").replace("Defaults are", "Config's own defaults are", 1)
    printed = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed):
        tyro.cli(config_class, default=default, description=notes, args=["--help"])
    parser.print_help()
    say(f"\nand every setting; the defaults are {of}\n{printed.getvalue().partition(chr(10))[2].rstrip()}")
    sys.exit()


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


def say_how_long(run: Run) -> None:
    """Times the script on this machine and prints how long the run will take. Uses the global random generators."""
    costs = measure(run.resolved, run.seed, run.device.type, run.threads)
    seconds = datetime.timedelta(seconds=round(total_seconds(costs, run.settings)))
    say(
        f"will take about {seconds} on this machine as it is now: {1 / costs.learning:.0f} agent steps/s while learning"
    )
