"""What the page of a task with claims shows that several agents have: a paper's and its variants' measures and curves, side by side."""

from __future__ import annotations

import statistics as st
from collections.abc import Sequence
from pathlib import Path

from common.evaluation.statistics import DASH
from reports.charts import PALETTE, draw
from reports.claims_page import curves_of
from reports.index import Entry, entry_of
from reports.target import PageTarget
from reports.whole import NOT_IN_PAPER, counted
from reports.words import number, size_name


def tasks_compared(targets: Sequence[PageTarget]) -> dict[str, list[PageTarget]]:
    """Tasks with claims that more than one agent has: task -> its targets."""
    found: dict[str, list[PageTarget]] = {}
    for target in targets:
        if target.task.claims:
            found.setdefault(target.task.name, []).append(target)
    return {name: several for name, several in found.items() if len(several) > 1}


def name_of(entry: Entry) -> str:
    return entry.target.variant.title if entry.target.variant_name else entry.target.paper.short


def cell(entry: Entry, measure: str) -> dict:
    """One agent's mean of a measure over its seeds, and the lowest and highest where seeds differ."""
    values = [run.measures[measure] for run in entry.finished if measure in run.measures]
    if not values:
        return {"mean": DASH, "seeds": ""}
    spread = f"{number(min(values))} to {number(max(values))}" if min(values) < max(values) else ""
    return {"mean": number(st.mean(values)), "seeds": spread}


def rows_of(entries: Sequence[Entry]) -> list[dict]:
    """One for each measure that a claim is about or that stands beside the claims, in the first agent's words."""
    statements: dict[str, str] = {}
    for entry in entries:
        task = entry.target.task
        for measure, statement in (
            *((c.measure, c.statement) for c in task.claims),
            *((a["measure"], a["statement"]) for a in task.also),
        ):
            statements.setdefault(measure, statement)
    return [
        {"statement": statement, "cells": [cell(entry, measure) for entry in entries]}
        for measure, statement in statements.items()
    ]


def charts_of(entries: Sequence[Entry]) -> list[dict]:
    """Each curve that at least two agents have: one line for each agent."""
    charts = []
    for figure in entries[0].target.task.figures if entries else ():
        curves = {name_of(entry): curves_of(figure["name"], entry.finished) for entry in entries}
        names = dict.fromkeys(name for found in curves.values() for name in found)
        for series in names:
            lines = {agent: found[series] for agent, found in curves.items() if series in found}
            if len(lines) > 1:
                legend = [(f"s{index % PALETTE + 1}", agent) for index, agent in enumerate(lines)]
                charts.append(
                    {
                        **figure,
                        "series": series,
                        "several": len(names) > 1,
                        "svg": draw(figure, lines),
                        "legend": legend,
                    }
                )
    return charts


def context_of(targets: Sequence[PageTarget], results: Path) -> dict:
    """All that the template `compared.html.j2` shows of one task's targets, those without finished runs as missing."""
    entries = [entry for target in targets if (entry := entry_of(target, results)).finished]
    agents = [
        {
            "name": name_of(entry), "page": entry.page, "seeds": counted(len(entry.finished), "seed"),
            "runs": f"{size_name(entry.size)}, {'recorded' if entry.source == 'recorded' else 'your own'}",
        }
        for entry in entries
    ]  # fmt: skip
    task = targets[0].task
    missing = [target.name for target in targets if target.name not in {e.target.name for e in entries}]
    return {
        "task": task.name, "title": task.title.removesuffix(NOT_IN_PAPER), "agents": agents, "rows": rows_of(entries),
        "charts": charts_of(entries), "missing": missing, "page": f"reports/{task.name}.html",
    }  # fmt: skip
