"""The workflow's first lines: what will be trained for each page, how long that takes, and what else there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import papers
from common.papers import BUDGETS, Target
from common.papers.units import plural
from common.say import say_aside


def announce(flow: Any, wanted: list[Target], shown: int = 6) -> str:
    """The first lines: which size each page gets, how long that takes, and what else there is."""
    lines = [line for target in wanted[:shown] for line in _announcement(flow, target)]
    if len(wanted) > shown:
        lines.append(f"... and {len(wanted) - shown} more pages")
    return "\n".join(lines)


def _announcement(flow: Any, target: Target) -> list[str]:
    if flow.config["source"] != "own":
        runs = {"recorded": "the recorded runs", "results": "the runs that are there"}[flow.config["source"]]
        results = Path(flow.config["results"])
        if flow.config["source"] == "results" and not any(
            (results / target.agent / target.task).glob("*/seed*")
        ):
            there = "the recorded runs" if flow.recorded(target) else "no run at all"
            runs = f"{there}: {results} has none of your own"
        return [f"{target.name}: from {runs}; nothing is trained"]
    size = flow.size(target)
    resolved = flow.resolved(target, size)
    facts = [] if resolved.frames is None else [plural(resolved.frames, "frames")]
    if resolved.paper_fraction is not None:
        facts.append(f"{resolved.paper_fraction:.3g} of the paper's")
    seeds = flow.seeds(target, size)
    device = flow.device_of(target)
    folders = [
        papers.run_dir(target.paper, target.variant, target.task, size, seed, flow.config["results"])
        for seed in range(1, seeds + 1)
    ]
    done = sum((folder / "run.json").exists() for folder in folders)
    trained = "" if not done else " trained already" if done == seeds else f", {done} of them trained already"
    facts += [f"{seeds} seed{'s' if seeds > 1 else ''}{trained}", f"on {device}"]
    if flow.stop_when_reached(target) and resolved.task.published:
        facts.append("until the published score is reached")
    expect = papers.expectation(resolved.expect, device)
    if size.startswith("frames-"):
        expect = "a length of your own"
    lines = [f"{target.name}: size {size} ({', '.join(facts)}): {expect}"]
    for other in BUDGETS:
        if other != size:
            text = papers.expectation(flow.resolved(target, other).expect, device)
            lines.append(f"    --config budget={other}: {text}")
    lines.append(
        "    --config frames=N: a length of its own; seeds=N, device=cpu|cuda; source=recorded: our own runs"
    )
    return lines


def of_other_settings(flow: Any, wanted: list[Target]) -> list[str]:
    """The run.json of finished runs that are not what would be trained in their place; says so."""
    found = []
    for target in wanted if flow.config["source"] == "own" else ():
        size = flow.size(target)
        resolved = flow.resolved(target, size)
        for seed in range(1, flow.seeds(target, size) + 1):
            where = (target.paper, target.variant, target.task, size, seed)
            path = papers.run_dir(*where, flow.config["results"]) / "run.json"
            try:
                what = papers.what_differs(json.loads(path.read_text(encoding="utf-8")), resolved, seed)
            except (OSError, ValueError, TypeError, AttributeError):
                continue  # there is none, or it is damaged: whoever reads it says so
            if what:
                found.append(str(path))
                line = f"{path.parent} was trained with {what}: it is put aside and trained again"
                say_aside(line)
    return found
