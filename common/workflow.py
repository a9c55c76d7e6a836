"""What the Snakefile asks: the checked configuration, the targets, and what each job needs.

All problems are raised as UserError while the Snakefile is read, before any job starts.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from common import announce, configuration, interruptions, needs, papers, summaries
from common.configuration import PAGE, SUFFIX, bare
from common.errors import UserError, did_you_mean
from common.files import digest, must_be_ones_own, must_be_writable
from common.papers import Resolved, Target
from common.runs import tracking
from common.runs.devices import detect_device, own_device
from common.say import say_aside
from common.surroundings import let_failed_pods_be_tried_again, name_the_user

INDEX = f"{PAGE}index{SUFFIX}"
SITE = "site"  # a rule's name
CLAIMS_FILES = ("run.json", "measures.json", "points.csv")
PAGE_FILES = ("run.json", "curve.csv", "episodes.csv", "timing.csv", "evaluation.json", "episode.mp4")
# Which a page shows where they are there. Here it looks for them itself; out of a storage it is given what it asks for.
FILMS = ("best.mp4", "values.json")
SIZES = papers.SIZE.pattern


@dataclass
class Flow:
    """The workflow's answers for one configuration."""

    config: dict[str, Any]
    root: Path = papers.REPLICATIONS
    papers: dict[str, papers.Paper] = field(init=False)
    targets: dict[str, Target] = field(init=False)
    broken: dict[str, UserError] = field(default_factory=dict)  # papers that could not be loaded, and why
    train_again: set[str] = field(default_factory=set)  # run.json of runs that are not what is asked for
    force: Callable[[set[str]], Any] = lambda files: None
    stored: bool = False  # runs lie in a storage, none of them here

    def __post_init__(self) -> None:
        self.papers = papers.load_papers(self.root, self.broken)
        if self.broken and not self.papers:
            raise next(iter(self.broken.values()))
        self.targets = papers.targets_of(self.papers)
        self.config = configuration.checked_config(self.config)
        self._of_paper: dict[str, list[Path]] = {}
        self._resolved: dict[tuple[Target, str], Resolved] = {}
        self.needs = needs.Needs(self)
        self.summaries = summaries.Summaries(self)
        try:
            self.config["targets"] = summaries.targets_meant(self)
        except UserError as problem:
            if problem not in self.broken.values():
                raise
            # of a broken paper: `requested` says so where the configuration's targets are asked for
        both = set(self.claims_tasks) & set(self._tasks(claims=False))
        if both:
            raise UserError(
                f"the task name {sorted(both)[0]!r} stands for a training and for a task with claims; rename one"
            )

    # --- names ---

    @cached_property
    def agents(self) -> dict[str, Target]:
        """ "dqn", "dqn-no_replay", ... -> one of its targets."""
        return {target.agent: target for target in self.targets.values()}

    @property
    def tasks(self) -> list[str]:
        return sorted({target.task for target in self.targets.values()})

    def _tasks(self, claims: bool) -> list[str]:
        return sorted(
            {target.task for target in self.targets.values() if bool(self._task(target).claims) == claims}
        )

    @property
    def claims_tasks(self) -> list[str]:
        """Those with a script and claims of their own: nothing is trained for an evaluation."""
        return self._tasks(claims=True)

    @property
    def trained(self) -> str:
        """A pattern for the names of all other tasks."""
        return "|".join(self._tasks(claims=False))

    @property
    def claims(self) -> str:
        """A pattern for the names of tasks with claims; where there is none, one that fits nothing."""
        return "|".join(self.claims_tasks) or "(?!)"

    def _task(self, target: Target) -> papers.Task:
        return papers.find_task(self.papers[target.paper], target.variant, target.task)[1]

    @property
    def pages(self) -> str:
        """A pattern for the names of pages: a target, or a target and a size with settings of one's own."""
        return f"(?:{'|'.join(self.targets)})(?:-{papers.OVERRIDDEN_SIZE})?"

    def page(self, name: str) -> tuple[Target, str]:
        """The target and the size that a page is asked for at. UserError for settings other than the configuration's."""
        found = re.fullmatch(f"(?P<target>.+?)-(?P<size>{papers.OVERRIDDEN_SIZE})", name)
        if not found:
            return self.target(name), self.size(self.target(name))
        target = self.target(found["target"])
        self.resolved(target, found["size"])
        return target, found["size"]

    def target(self, name: str) -> Target:
        if name not in self.targets:
            papers.raise_if_broken(name, self.papers, self.broken)
            raise UserError(
                f"unknown target {name!r}{did_you_mean(name, list(self.targets))}; pages are made as reports/NAME.html, and "
                "./run targets PATTERN lists them"
            )
        return self.targets[name]

    def requested(self, words: Iterable[str]) -> list[Target]:
        """The pages among the words of a command line; those of the configuration if there are none.

        The index needs no page, nor do those of papers, tasks and tables: they show what there is.
        """
        found, index = [], False
        for word in words:
            path = os.path.relpath(word) if os.sep in word else word
            page = path.startswith(PAGE) and path.endswith(SUFFIX)
            if path in (INDEX, SITE) or (page and bare(path) in self.summaries.names):
                index = True
            elif page:
                found.append(self.page(bare(path))[0])
            elif bare(path) in self.summaries.names | {*self.targets} and not Path(word).exists():
                raise UserError(
                    f"{word!r} is no file to make; its page is asked for as {PAGE}{bare(path)}{SUFFIX}"
                )
        if index:
            return found
        return found or [self.target(name) for name in self.config["targets"]]

    # --- sizes ---

    @cached_property
    def device(self) -> str:
        return detect_device() if self.config["device"] == "auto" else self.config["device"]

    def device_of(self, target: Target) -> str:
        """What its training runs on: a script with a device of its own on that; a GPU is for networks that see screens."""
        task = self._task(target)
        own = own_device(self.papers[target.paper].folder / f"{task.script}.py")
        return own or (self.device if task.kind == "atari" else "cpu")

    def gpus(self, wildcards: Any) -> int:
        """GPUs that the training or the evaluation asks for."""
        return int(self.device_of(self.target_of(wildcards)) == "cuda")

    def size(self, target: Target) -> str:
        return papers.overridden_size(self._plain_size(target), self.overrides(target))

    def _plain_size(self, target: Target) -> str:
        if self.config["frames"]:
            return f"frames-{self.config['frames']}"
        own = own_device(self.papers[target.paper].folder / f"{self._task(target).script}.py")
        return papers.resolve_budget(self.config["budget"], self._task(target), own or self.device)

    def overrides(self, target: Target) -> dict[str, Any]:
        """The `settings` of the configuration that differ from what this target's size says."""
        if not self.config["settings"]:
            return {}
        paper, task = self.papers[target.paper], self._task(target)
        script = f"{paper.folder.name}/{task.script}.py"
        given = papers.in_type(papers.settings_in(self.config["settings"]), paper.fields(task.script), script)
        plain = self.resolved(target, self._plain_size(target)).settings
        return {name: value for name, value in given.items() if value != plain[name]}

    def stop_when_reached(self, target: Target) -> bool:
        """`auto` on a GPU trains at the paper's length, and no longer than the published score takes."""
        return (
            self.config["budget"] == "auto" and not self.config["frames"] and self.device_of(target) == "cuda"
        )

    def resolved(self, target: Target, size: str) -> Resolved:
        """What a run of this size does. UserError for settings of somebody's own that the configuration does not name."""
        if (target, size) not in self._resolved:
            self._resolved[target, size] = self._resolve(target, size)
        return self._resolved[target, size]

    def _resolve(self, target: Target, size: str) -> Resolved:
        own = {}
        if papers.is_overridden(size):
            own = self.overrides(target)
            if papers.overridden_size(papers.budget_of(size), own) != size:
                raise UserError(
                    f"{target.name} at {size}: its settings cannot be told from that name; give them and the budget: "
                    f'{PAGE}{target.name}{SUFFIX} --config budget={papers.budget_of(size)} settings="NAME=VALUE"'
                )
        return papers.resolve(self.papers[target.paper], target.variant, target.task, size, own)

    def seeds(self, target: Target, size: str) -> int:
        if self.config["seeds"] != "auto":
            return self.config["seeds"]
        task = papers.find_task(self.papers[target.paper], target.variant, target.task)[1]
        return papers.default_seeds(task, size)

    # --- what jobs need ---

    def run(self, wildcards: Any) -> tuple[Resolved, int]:
        """The run that a train or evaluate job is about."""
        return self.resolved(self.target_of(wildcards), wildcards.size), int(wildcards.seed)

    def target_of(self, wildcards: Any) -> Target:
        agent = self.agents[wildcards.agent]
        return Target(agent.paper, agent.variant, wildcards.task)

    def settings(self, wildcards: Any) -> str:
        return papers.settings_json(*self.run(wildcards))

    def protocol(self, wildcards: Any) -> str:
        return papers.protocol_json(self.run(wildcards)[0].protocol)

    def trainer(self, wildcards: Any) -> str:
        """The trainer's module and which run: `replications.dqn.train --task pong --seed 1 --budget hour`."""
        resolved, seed = self.run(wildcards)
        module = f"replications.{resolved.paper.name}.{resolved.task.script}"
        variant = f" --variant {resolved.variant.name}" if resolved.variant.name else ""
        own = self.overrides(self.target_of(wildcards)) if papers.is_overridden(resolved.budget) else {}
        flags = "".join(f" {shlex.quote(flag)}" for flag in papers.as_flags(own))
        budget = papers.budget_of(resolved.budget)
        return f"{module} --task {resolved.task.name}{variant} --seed {seed} --budget {budget}{flags}"

    def train_flags(self, wildcards: Any, attempt: int) -> str:
        """How to train, where it makes no other run: device, and when to start over or stop.

        --fresh at the first attempt only: a retry goes on from what the first one saved.
        """
        fresh = " --fresh" if self.config["fresh"] and attempt == 1 else self._changed
        target = self.target_of(wildcards)
        stop = " --stop-when-reached" if self.stop_when_reached(target) else ""
        return f"--device {self._device_flag(target)}{fresh}{stop}"

    def evaluation_flags(self, wildcards: Any) -> str:
        return f"--device {self._device_flag(self.target_of(wildcards))}"

    def read_in_evaluation(self, wildcards: Any) -> list[str]:
        """What an evaluation reads beside weights and run.json: here it lies beside them, out of a storage it is an input."""
        names = ("curve.csv", "episodes.csv") if self.stored else ()
        return [str(self._run_dir(wildcards) / name) for name in names]

    def _device_flag(self, target: Target) -> str:
        """As configured, `auto` included, but never a GPU for what runs on the CPU only."""
        return self.config["device"] if self.device_of(target) == self.device else self.device_of(target)

    def claims_flags(self, wildcards: Any, attempt: int) -> str:
        """A task with claims needs no GPU, and starts over by itself."""
        return "--fresh" if self.config["fresh"] and attempt == 1 else self._changed.strip()

    @property
    def _changed(self) -> str:
        return " --resume-changed" if self.config["resume_changed"] else ""

    def _run_dir(self, wildcards: Any) -> Path:
        target = self.agents[wildcards.agent]
        where = (target.paper, target.variant, wildcards.task, wildcards.size, int(wildcards.seed))
        return papers.run_dir(*where, self.config["results"])

    def starts_over(self, wildcards: Any) -> int:
        """How often the run was started over on purpose, this time included: a new number trains again."""
        try:
            before = int((self._run_dir(wildcards) / ".fresh").read_text())
        except (OSError, ValueError):
            before = 0
        return before + int(self.config["fresh"])

    def before_training(self, wildcards: Any) -> str:
        """Shell text, mostly none, in which "$run" is the run's folder.

        It notes that the run starts over, and puts its work in progress on another disk if one is named.
        """
        commands = []
        if self.config["checkpoints"]:
            parts = self._run_dir(wildcards).parts[-4:]
            kept = shlex.quote(os.path.join(os.path.abspath(self.config["checkpoints"]), *parts))
            commands += [f'mkdir -p {kept} "$run"', f'ln -sfn {kept} "$run/checkpoint"']
        if self.config["fresh"]:
            commands += ['mkdir -p "$run"', f'echo {self.starts_over(wildcards)} > "$run/.fresh"']
        return " && ".join([*commands, ""])

    def page_runs(self, wildcards: Any) -> list[str]:
        """The files of the runs that a page needs: none where it is made from recorded ones.

        Runs with settings of one's own have a page of their own, which then is all that the target's page needs.
        """
        if self.config["source"] != "own":
            return []
        target, size = self.page(wildcards.target)
        _ = self.needs.here  # shares out this machine
        if papers.is_overridden(size) and wildcards.target == target.name:
            return [f"{PAGE}{target.name}-{size}{SUFFIX}"]
        seeds = range(1, self.seeds(target, size) + 1)
        files = [path for seed in seeds for path in self.files_of(target, size, seed)]
        self.force(self.train_again & set(files))
        if os.path.exists(
            f"{PAGE}{wildcards.target}{SUFFIX}"
        ):  # Snakemake misses no run that a page was made from
            self.force({path for path in files if not os.path.exists(path)})
        return files

    def files_of(self, target: Target, size: str, seed: int) -> list[str]:
        """What a run leaves for pages."""
        folder = papers.run_dir(target.paper, target.variant, target.task, size, seed, self.config["results"])
        films = FILMS if self.stored else ()
        names = CLAIMS_FILES if self._task(target).claims else (*PAGE_FILES, *films)
        return [str(folder / name) for name in names]

    def page_of(self, wildcards: Any) -> str:
        """What a page is made from and opens on: another source or size makes it anew."""
        _, size = self.page(wildcards.target)
        own = self.config["source"] == "own" and not papers.is_overridden(size)
        source = "recorded" if self.config["source"] == "recorded" else "own"
        return f"--source {source}" + (f" --asked {size}" if own else "")

    def page_seen(self, wildcards: Any) -> str:
        """Changes with what a page is made from beside runs trained for it: it is made anew when that changes."""
        target, _ = self.page(wildcards.target)
        if self.config["source"] != "results":
            return self.page_sources(target)
        about = {(target.agent, target.task)}
        return f"{self.page_sources(target)} {summaries.seen(self.config['results'], about)}"

    def page_results(self, wildcards: Any, input: Any) -> str:
        """The folder of results that a page is made from; where jobs have copies of their own, the copies."""
        own = [path for path in input if not path.endswith(SUFFIX)]
        return str(Path(own[0]).parents[4]) if own else self.config["results"]

    def page_sources(self, target: Target) -> str:
        """A digest of the paper as data, its tables, recorded runs, the template. As inputs they would be a hundred for each
        page, which is most of the work where thousands of pages are asked for."""
        paper = self.papers[target.paper]
        if paper.name not in self._of_paper:
            reference = paper.folder.glob("reference_curves.csv")
            self._of_paper[paper.name] = [paper.file, *paper.tables(), *reference]
        return digest([*self._of_paper[paper.name], *self.recorded(target)], self.code_of_pages)

    @cached_property
    def code_of_pages(self) -> str:
        files = (self.root.parent / "reports").rglob("*")
        return digest(path for path in files if path.suffix in (".py", ".j2", ".css", ".js"))

    def recorded(self, target: Target) -> list[Path]:
        folder = papers.recorded_dir(target.paper, target.variant, target.task, root=self.root)
        names = ("run.json", "measures.json" if self._task(target).claims else "evaluation.json")
        return [path for name in names for path in folder.glob(f"*/seed*/{name}")]

    def index_pages(self, wildcards: Any) -> list[str]:
        """The pages that are made at the same call, so that the index is made after them."""
        return [
            f"{PAGE}{target.name}{SUFFIX}"
            for target in self.requested(configuration.asked_of_snakemake(sys.argv))
        ]

    def index_seen(self, wildcards: Any) -> str:
        """Changes with one's own finished runs, papers and templates. They are no input: the index never asks for a training.

        Runs of pages made at the same call are left out: the pages are its input.
        """
        asked = {(t.agent, t.task) for t in self.requested(configuration.asked_of_snakemake(sys.argv))}
        papers = [path for paper in self.papers.values() for path in (paper.file, *paper.tables())]
        recorded = [path for target in self.targets.values() for path in self.recorded(target)]
        runs = summaries.seen(self.config["results"], without=asked)
        return f"{digest([*papers, *recorded], self.code_of_pages)} {runs}"

    # --- before anything runs ---

    def check(self, wanted: list[Target]) -> None:
        """Everything about the pages wanted that can be known now."""
        for target in wanted:
            if self.config["source"] != "recorded":
                self.resolved(target, self.size(target))
                papers.must_call_main(self.papers[target.paper].folder / f"{self._task(target).script}.py")
            elif not self.recorded(target):
                known = [name for name, other in self.targets.items() if self.recorded(other)]
                raise UserError(
                    f"nothing is recorded for {target.name}; recorded are: {', '.join(known) or 'none yet'}. "
                    "Train it here instead: leave out source=recorded"
                )
        must_be_ones_own(Path())
        configuration.must_be_there(self.config)
        for key in ("results", "checkpoints") if self.config["source"] == "own" else ():
            if self.config[key]:
                must_be_writable(key, Path(self.config[key]))

    def check_here(self, jobs_run_here: bool) -> None:
        """What must be so on this machine if jobs are about to start on it; a login node needs no GPU."""
        if jobs_run_here and self.config["device"] == "cuda" and detect_device() != "cuda":
            raise UserError(
                "device: cuda: no NVIDIA GPU, or a PyTorch built without CUDA, is here; use device=cpu or auto"
            )

    def announce(self, wanted: list[Target]) -> str:
        """The first lines (`common/announce.py`)."""
        return announce.announce(self, wanted)


def prepare(workflow: Any, config: dict[str, Any]) -> Flow:
    """What the Snakefile starts with. Problems become Snakemake's own error: one message, no traceback."""
    from snakemake.exceptions import WorkflowError

    try:
        configuration.check_given(workflow.config_settings.config or {})
        gc.freeze()
        gc.set_threshold(500_000, 50, 100)  # a graph of thousands of jobs is no garbage
        flow = Flow(config, stored=bool(workflow.storage_settings.default_storage_provider))
        # the rules' `python` is the one that runs Snakemake, with or without an activated environment
        base, path = str(flow.root.parent), str(Path(sys.executable).parent)
        os.environ["PATH"] = os.pathsep.join([path, os.environ.get("PATH", "")])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [base, os.environ.get("PYTHONPATH")]))
        os.environ.setdefault("WANDB_MODE", flow.config["wandb"])
        tracking.mode()
        name_the_user()
        let_failed_pods_be_tried_again()
        flow.needs = needs.Needs(flow, workflow)
        if workflow.is_main_process:
            wanted = flow.requested(configuration.asked_of_snakemake(sys.argv))
            flow.check(wanted)
            for name, problem in flow.broken.items():
                say_aside(f"warning: {problem}; {papers.left_out(name)}")
            interruptions.hold(Path(".snakemake"))
            say_aside(flow.announce(wanted))
            flow.needs.cut_into_pieces(wanted)
            if workflow.output_settings.dryrun:
                atexit.register(flow.needs.say_sum)
            flow.train_again = set(announce.of_other_settings(flow, wanted))
            # The graph of jobs is made after this file is read; while it asks for inputs, it can be told more.
            # Where runs lie in a storage, none is here, and none is missed.
            if not flow.stored:
                flow.force = lambda files: workflow.dag.forcefiles.update(files)
        return flow
    except UserError as error:
        raise WorkflowError(str(error)) from None
