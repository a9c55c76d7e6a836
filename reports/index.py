"""Renders the index of all pages: `python -m reports.index [--results results] [--out reports/index.html]`.

Every paper against every task, from whatever runs there are, one's own and the recorded ones. Nothing is trained. A page
that has results and was not made yet is made too, so that each coloured cell leads somewhere; it is dated 1970, so that
the workflow makes it anew (with everything it checks) as soon as it is asked for.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from common import papers
from common.errors import UserError, run_main
from common.evaluation.aggregates import interquartile_mean, median, with_interval
from common.evaluation.statistics import (
    decimals_for,
    format_number,
    format_percent,
)
from common.evaluation.verdict import (
    WORDS,
    Verdict,
    score_alone,
    score_in_words,
    seeds_in_words,
    state,
)
from common.say import say
from reports.render import environment, made_from, make_preview, write
from reports.runs import SeedRun, find_runs, finished_of
from reports.scores import length_of
from reports.section import own_settings, resolved_for, verdict_on
from reports.target import PageTarget
from reports.words import size_name

# What a reader sees beside the colour: a verdict is never told by colour alone.
SIGNS = {
    "replicated": "✓", "not_replicated": "✗", "undecided": "≈", "reached": "▲", "not_reached": "▽", "too_short": "◔", "not_testable": "○",
    "no_published": "○", "own_settings": "○", "not_averaged": "!", "damaged": "!", "in_progress": "…", "failed": "!", "nothing_yet": "·",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One page's line in the index. `source` and `size` are None where nothing was run; `problem` names damaged files.

    read: what `find_runs` gave, so that a page need not read it again; mark: what `made_from` gave before that.
    """

    target: PageTarget
    verdict: Verdict
    source: str | None = None
    size: str | None = None
    finished: tuple[SeedRun, ...] = ()
    problem: str | None = None
    read: tuple | None = None
    mark: str | None = None

    @property
    def agent(self) -> str:
        return papers.agent_name(self.target.paper.name, self.target.variant_name)

    @property
    def page(self) -> str:
        return f"{self.target.name}.html"

    @property
    def at_length(self) -> bool:
        return (self.verdict.fraction or 0) >= 1

    @property
    def scores(self) -> list[float]:
        return [run.evaluation["score"] for run in self.finished if run.evaluation]


def entry_of(target: PageTarget, results: Path) -> Entry:
    """What a page opens on. Damaged files become the entry's `problem`; the index goes on without."""
    try:
        mark = made_from(target, results)
        found, left_out = find_runs(target, results)
    except UserError as error:
        return Entry(target, state("damaged", "The results are damaged."), problem=str(error))
    if not found:
        return Entry(target, state("nothing_yet", "Nothing has been run yet."))
    source, size, runs = found[0]
    settings = own_settings(target, source, size, runs, resolved_for(target, size, runs)[0])
    verdict = verdict_on(target, runs, settings)[0]
    return Entry(target, verdict, source, size, tuple(finished_of(runs)), None, (found, left_out), mark)


def all_targets(loaded: Mapping[str, papers.Paper]) -> list[PageTarget]:
    """Every page there is, in order of publication, base variants first."""
    found = []
    for paper in sorted(loaded.values(), key=lambda p: (p.citation["year"], p.name)):
        for variant in sorted(paper.variants.values(), key=lambda v: bool(v.name)):
            for task in variant.tasks.values():
                name = papers.Target(paper.name, variant.name or None, task.name).name
                found.append(PageTarget(name, paper, variant, task, variant.name or None))
    return found


def cell(entry: Entry, has_page: bool) -> dict:
    """What the template shows: a sign, a number, and all of it in words."""
    v = entry.verdict
    words = [v.word]
    number = ""
    if v.score is not None:
        number = score_alone(v.score)
        words.append(f"{score_in_words(v.score)}, {seeds_in_words(v.score.n)}")
    if v.g is not None:
        words.append(f"{format_percent(v.g.value)} of the published margin")
    if v.fraction is not None:
        words.append(f"{format_percent(v.fraction)} of {length_of(entry.target.task)}")
    if entry.size:
        words.append(f"size {size_name(entry.size)}, {'recorded' if entry.source == 'recorded' else 'own'}")
    if entry.problem:
        words = [entry.problem]
    return {
        "key": v.key,
        "colour": v.colour,
        "sign": SIGNS.get(v.key, "●"),
        "number": number or {"in_progress": "running", "nothing_yet": ""}.get(v.key, v.word.lower()),
        "share": format_percent(v.g.value) if v.g is not None else "",
        "words": "; ".join(words),
        "page": entry.page if has_page else None,
        "name": entry.target.name,
        "has": entry.size is not None or entry.problem is not None,
    }


def normalised(entry: Entry) -> list[float] | None:
    """Human-normalised scores, one a seed; None where the task has no human or random score to measure with."""
    scale = scale_of(entry.target.task)
    if entry.verdict.score is None or scale is None:
        return None
    return [(score - scale[0]) / (scale[1] - scale[0]) for score in entry.scores]


# Papers print other human scores for the same game (Pong: -3, 9.3, 14.6): side by side all are measured by one table
ONE_TABLE = ("dueling_dqn", "noop30_30min")
ONE_TABLE_IN_WORDS = "Wang et al. 2016, Table 2"


@cache
def one_table() -> dict[str, tuple[float, float]]:
    """game -> (random, human)."""
    paper, protocol = ONE_TABLE
    found: dict[str, dict[str, float]] = {}
    path = papers.REPLICATIONS / paper / "published.csv"
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["metric"] in ("random", "human") and row["protocol"] == protocol:
                found.setdefault(row["game"], {})[row["metric"]] = float(row["value"])
    return {game: (row["random"], row["human"]) for game, row in found.items() if len(row) == 2}


def scale_of(task: papers.Task) -> tuple[float, float] | None:
    """(random, human) that the index measures with, the same for every paper; None for what is no game of that table."""
    scale = one_table().get(task.game or "")
    return scale if scale and scale[0] != scale[1] else None


def ours_against(entry: Entry) -> str | None:
    """win, tie (equal as printed) or loss against the paper's own score; None where the two are not compared."""
    row = entry.target.task.published
    if row is None or entry.verdict.score is None:
        return None
    digits = len(f"{row.value:.10f}".rstrip("0").split(".")[1])
    ours, theirs = round(entry.verdict.score.mean, digits), round(row.value, digits)
    return "win" if ours > theirs else "loss" if ours < theirs else "tie"


def in_words(value: float, interval: tuple[float, float] | None) -> str:
    """`93 % (85 to 101 %)`, rounded to what the interval allows."""
    if interval is None:
        return format_percent(value)
    decimals = min(2, max(0, decimals_for(50 * (interval[1] - interval[0]))))
    middle, low, high = (format_number(100 * x, decimals) for x in (value, *interval))
    return f"{middle} % ({low} to {high} %)"


def aggregate(entries: Sequence[Entry]) -> dict | None:
    """Median and interquartile mean over the games of one paper that have scores; None where fewer than two have.

    Each game weighs the same, whatever its number of seeds.
    """
    scored = [(entry, values) for entry in entries if (values := normalised(entry)) is not None]
    if len(scored) < 2:
        return None
    scores = [np.array(values) for _, values in scored]
    scales = [(e.target.task.published, scale_of(e.target.task)) for e, _ in scored]
    printed = [np.array([(row.value - low) / (high - low)]) for row, (low, high) in scales if row is not None]
    outcomes = [outcome for entry, _ in scored if (outcome := ours_against(entry))]
    theirs = len(printed) == len(scored)
    seeds = sorted({len(values) for values in scores})
    found = {"median": with_interval(scores, median), "iqm": with_interval(scores, interquartile_mean)}
    return {
        "games": len(scored),
        "seeds": str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}",
        **{name: in_words(*pair) for name, pair in found.items()},
        "paper_median": format_percent(float(median(printed))) if theirs else None,
        "paper_iqm": format_percent(float(interquartile_mean(printed))) if theirs else None,
        "outcomes": {what: outcomes.count(what) for what in ("win", "tie", "loss")} if outcomes else None,
        "values": {
            **{name: value for name, (value, _) in found.items()},
            "games": [entry.target.task.name for entry, _ in scored],
            "seeds": [len(values) for values in scores],
        },
    }


def aggregates(entries: Sequence[Entry]) -> list[dict]:
    """One row for each paper or variant and each of: at the paper's length, shorter. The two are never mixed."""
    rows = []
    for agent in dict.fromkeys(entry.agent for entry in entries):
        mine = [e for e in entries if e.agent == agent and e.target.task.kind == "atari"]
        for at_length, what in ((True, "the paper's length"), (False, "shorter")):
            row = aggregate([e for e in mine if e.at_length == at_length])
            if row:
                target = mine[0].target
                rows.append(
                    {"agent": agent, "short": target.paper.short, "target": target, "length": what, **row}
                )
    return rows


def has_page(entry: Entry, results: Path, out: Path) -> bool:
    """Whether there is a page to lead to; one that has results and is missing is made."""
    page = out.parent / entry.page
    if entry.size is None:
        return page.exists()
    return make_preview(page, entry.target, results, read=entry.read, mark=entry.mark)


def row_order(name: str, kinds: dict[str, str]) -> tuple:
    return {"atari": 0, "gym": 1, "claims": 2}.get(kinds[name], 3), name


def matrix(entries: Sequence[Entry], has_page: dict[str, bool]) -> tuple[list[dict], list[dict]]:
    """(columns, rows): one column an agent (paper or variant), one row a task; a cell is None where the paper has no
    such task. The columns with the most results come first.
    """
    columns: dict[str, dict] = {}
    kinds: dict[str, str] = {}
    titles: dict[str, str] = {}
    by: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        target = entry.target
        columns.setdefault(
            entry.agent,
            {
                "agent": entry.agent,
                "paper": target.paper.name,
                "short": target.paper.short,
                "variant": target.variant.title if target.variant_name else None,
            },
        )
        kinds.setdefault(target.task.name, target.task.kind)
        titles.setdefault(target.task.name, target.task.title)
        by[entry.agent, target.task.name] = entry
    filled = {agent: sum(e.size is not None for e in entries if e.agent == agent) for agent in columns}
    columns = {agent: columns[agent] for agent in sorted(columns, key=lambda agent: -filled[agent])}
    rows = []
    for task in sorted(kinds, key=lambda name: row_order(name, kinds)):
        cells = [
            cell(by[agent, task], has_page[by[agent, task].target.name]) if (agent, task) in by else None
            for agent in columns
        ]
        rows.append({"task": task, "title": titles[task], "cells": cells})
    return list(columns.values()), rows


def render_index(results: Path, out: Path, previews: bool = True) -> list[Entry]:
    """Writes the index and returns its entries. Damaged results are named in their cell and stop nothing else."""
    loaded = papers.load_papers()
    entries = [entry_of(target, results) for target in all_targets(loaded)]
    made = {
        entry.target.name: has_page(entry, results, out) if previews else (out.parent / entry.page).exists()
        for entry in entries
    }
    columns, rows = matrix(entries, made)
    for part, name in [(c, c["agent"]) for c in columns] + [(row, row["task"]) for row in rows]:
        part["page"] = f"{name}.html" if (out.parent / f"{name}.html").exists() else None
    cells = [c for row in rows for c in row["cells"] if c]
    counts = {key: sum(c["key"] == key for c in cells) for key in WORDS}
    totals = aggregates(entries)
    text = (
        environment()
        .get_template("index.html.j2")
        .render(
            columns=columns,
            rows=rows,
            cells=cells,
            aggregates=totals,
            scale=ONE_TABLE_IN_WORDS,
            papers=sorted(loaded.values(), key=lambda p: (p.citation["year"], p.name)),
            legend=[(key, *WORDS[key], SIGNS.get(key, "●"), counts[key]) for key in WORDS if counts[key]],
            data={
                "pages": [
                    {
                        "page": entry.page,
                        "verdict": entry.verdict.key,
                        "source": entry.source,
                        "size": entry.size,
                        "seed_scores": entry.scores,
                        "g": entry.verdict.g and entry.verdict.g.value,
                        "human_normalised": entry.verdict.normalised and entry.verdict.normalised.value,
                    }
                    for entry in entries
                ],
                "aggregates": [{"agent": a["agent"], "length": a["length"], **a["values"]} for a in totals],
            },
        )
    )
    write(out, text)
    return entries


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reports.index",
        description="Render the index of all pages from whatever results there are.",
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("reports/index.html"))
    args = parser.parse_args(argv)
    entries = render_index(args.results, args.out)
    with_results = sum(entry.size is not None for entry in entries)
    say(f"{args.out}: {len(entries)} pages, {with_results} with results")


if __name__ == "__main__":
    run_main(main)
