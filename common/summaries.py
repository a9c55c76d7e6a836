"""The pages about many runs at once, as the Snakefile asks for them: of a paper, of a task, of a printed table.

Those of papers and tasks train nothing; a table's asks for every run that it prints.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from common.configuration import PAGE, SUFFIX
from common.errors import UserError, did_you_mean
from common.papers import Paper, Target, raise_if_broken
from common.papers.printed import Table

JSON = ("run.json", "evaluation.json", "measures.json")


class Summaries:
    """flow: the workflow's answers (`common/workflow.py`)."""

    def __init__(self, flow: Any):
        self.flow = flow

    @cached_property
    def tables(self) -> dict[str, tuple[Paper, Table]]:
        """ "ppo_table_1", ..."""
        return {
            f"{paper.name}_{table.name}": (paper, table)
            for paper in self.flow.papers.values()
            for table in paper.printed_tables
        }

    @cached_property
    def tasks(self) -> list[str]:
        """Those that agents are trained on, and those with claims that more than one agent has."""
        having = [t.task for t in self.flow.targets.values() if self.flow._task(t).claims]
        return [*self.flow._tasks(claims=False), *sorted({t for t in having if having.count(t) > 1})]

    @cached_property
    def names(self) -> set[str]:
        """Of all such pages. UserError where two pages would share one."""
        kinds = {
            "paper": self.flow.agents,
            "task": self.tasks,
            "table": self.tables,
            "target": self.flow.targets,
        }
        seen: dict[str, str] = {"index": "index"}
        for kind, known in kinds.items():
            for name in known:
                if name in seen:
                    raise UserError(
                        f"the {kind} {name!r} and the {seen[name]} of that name would share the page {PAGE}{name}{SUFFIX}; rename one"
                    )
                seen[name] = kind
        return {name for name, kind in seen.items() if kind not in ("target", "index")}

    def page(self, wildcards: Any) -> str:
        """The module that makes a page."""
        name = wildcards.summary
        return (
            "reports.table_page"
            if name in self.tables
            else "reports.task_page"
            if name in self.tasks
            else "reports.paper_page"
        )

    def targets_of_table(self, name: str) -> list[Target]:
        paper, table = self.tables[name]
        return [
            Target(paper.name, row.variant or None, task)
            for row in table.rows
            if row.variant is not None or table.layout == "measures"
            for task in table.tasks
        ]

    def targets(self, name: str) -> list[Target]:
        """What a page is about."""
        if name in self.tables:
            return self.targets_of_table(name)
        return [t for t in self.flow.targets.values() if name in (t.agent, t.task)]

    def size(self, target: Target) -> str:
        """A table is of the paper's length, unless another is asked for."""
        if self.flow.config["budget"] == "auto" and not self.flow.config["frames"]:
            return "paper"
        return self.flow.size(target)

    def runs(self, wildcards: Any) -> list[str]:
        """The files that a page needs: of a table all its runs; of papers and tasks the pages made at the same call."""
        name = wildcards.summary
        if name not in self.tables:
            return self.flow.index_pages(wildcards)
        if self.flow.config["source"] != "own":
            return []
        _ = self.flow.needs.here  # shares out this machine
        _, table = self.tables[name]
        seeds = self.flow.config["seeds"]
        files = {}
        for target in self.targets_of_table(name):
            for seed in range(1, (table.seeds if seeds == "auto" else seeds) + 1):
                files |= dict.fromkeys(self.flow.files_of(target, self.size(target), seed))
        return list(files)

    def seen(self, name: str) -> str:
        """Changes with what a page is made of: one's own finished runs, the papers as data, recorded runs, templates."""
        about = self.targets(name)
        sources = sorted({self.flow.page_sources(target) for target in about})
        return " ".join([*sources, seen(self.flow.config["results"], {(t.agent, t.task) for t in about})])


def seen(
    results: str, about: set[tuple[str, str]] | None = None, without: Mapping | set = frozenset()
) -> str:
    """A digest of the JSON files of finished runs: of all, of some (agent, task), or without some."""
    digest = hashlib.sha256()
    for path in sorted(Path(results).glob("*/*/*/seed*/*.json")):
        run = path.parts[-5], path.parts[-4]
        if path.name in JSON and run not in without and (about is None or run in about):
            digest.update(f"{path} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


# --- many pages by one word ---

ATARI5 = {"battle_zone", "double_dunk", "name_this_game", "phoenix", "qbert"}  # Aitchison et al., ICML 2023


def in_suite(flow: Any, name: str, target: Target) -> bool:
    """atari49: the games of DQN (2015); mujoco7: the tasks of PPO (2017), Table 1; all_claims: all tasks with claims."""
    if name == "all_claims":
        return bool(flow._task(target).claims)
    return target.task in tasks_in(name, flow.papers)


def tasks_in(suite: str, papers: Mapping[str, Paper]) -> set[str]:
    """Of atari5, atari49 or mujoco7; none where its paper is not there."""
    if suite == "atari5":
        return ATARI5
    paper, kind = {"atari49": ("dqn", "atari"), "mujoco7": ("ppo", "gym")}[suite]
    tasks = papers[paper].tasks.values() if paper in papers else ()
    return {task.name for task in tasks if task.kind == kind and task.in_paper}


def fitting(flow: Any, pattern: str) -> list[str]:
    """The targets that a pattern fits. After a paper's name and "_" it is about tasks: dqn_* has no page of dqn_2013."""
    agent = max((name for name in flow.agents if pattern.startswith(f"{name}_")), key=len, default=None)
    fit = fnmatch.filter(flow.targets, pattern)
    return [name for name in fit if flow.targets[name].agent == agent] or fit


def targets_meant(flow: Any) -> list[str]:
    """The configuration's `targets`, patterns written out; with a `suite`, their agents on all of its tasks."""
    names: dict[str, None] = {}
    for word in flow.config["targets"]:
        fit = fitting(flow, word) if set("*?") & set(word) else [flow.target(word).name]
        if not fit:
            raise_if_broken(word.strip("*?_"), flow.papers, flow.broken)
            raise UserError(
                f"targets: no target fits {word!r}{did_you_mean(word.strip('*?_'), list(flow.agents))}; patterns are like dqn_* "
                "(a paper's tasks) and *_pong (a task's papers), and ./run targets lists what there is"
            )
        names |= dict.fromkeys(fit)
    suite = flow.config["suite"]
    if suite is None:
        return list(names)
    agents = dict.fromkeys(flow.targets[name].agent for name in names)
    found = [name for name, t in flow.targets.items() if t.agent in agents and in_suite(flow, suite, t)]
    if not found:
        raise UserError(f"suite: {suite}: {', '.join(agents)} has none of its tasks")
    return found
