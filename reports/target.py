"""What a page is about, before any run: the paper, the task and the names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from common import papers


@dataclass(frozen=True)
class PageTarget:
    """`name` is the page's (dqn_pong); `variant_name` None is the paper itself."""

    name: str
    paper: papers.Paper
    variant: papers.Variant
    task: papers.Task
    variant_name: str | None


def load_target(name: str) -> PageTarget:
    """UserError with close matches for an unknown name."""
    parsed = papers.parse_target(name)
    paper = papers.load_paper(parsed.paper)
    variant, task = papers.find_task(paper, parsed.variant, parsed.task)
    return PageTarget(parsed.name, paper, variant, task, parsed.variant)


def value_of(row: papers.Row | None) -> float | None:
    return None if row is None else row.value


def roots(target: PageTarget, results: Path) -> dict[str, Path]:
    """Where the runs of a page lie: one's own and the recorded ones."""
    folder = target.paper.folder
    recorded = papers.recorded_dir(folder.name, target.variant_name, target.task.name, root=folder.parent)
    own = results / papers.agent_name(target.paper.name, target.variant_name) / target.task.name
    return {"own": own, "recorded": Path(os.path.relpath(recorded))}
