"""What the index says: for each page the run it opens on and its verdict, and for each paper the aggregate over games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import papers
from common.errors import UserError
from common.evaluation.statistics import (
    decimals_for,
    format_number,
    format_percent,
    interquartile_mean,
    interquartile_mean_interval,
    median_over_games,
    median_over_games_interval,
)
from common.evaluation.verdict import Verdict, score_in_words, seeds_in_words, state
from reports import laptop
from reports.data import Run, find_runs, rank
from reports.section import size_name, verdict_of, waiting_verdict
from reports.target import Target, roots, value_of

# What a reader sees beside the colour: a verdict is never told by colour alone.
SIGNS = {
    "replicated": "✓", "not_replicated": "✗", "undecided": "≈", "reached": "▲", "not_reached": "▽", "not_testable": "○",
    "no_published": "○", "not_averaged": "!", "in_progress": "…", "failed": "!", "nothing_yet": "·",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One page's line in the index. `source` and `size` are None where nothing was run; `problem` names damaged files."""

    target: Target
    verdict: Verdict
    source: str | None = None
    size: str | None = None
    finished: tuple[Run, ...] = ()
    problem: str | None = None

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
        return [run.evaluation["score"] for run in self.finished]


def entry_of(target: Target, results: Path) -> Entry:
    """The longest finished size of a page. Damaged files become the entry's `problem`; the index goes on without."""
    if target.task.claims:
        try:
            return Entry(target, *laptop.overview(target, results))
        except UserError as error:
            return Entry(target, state("not_averaged", "The results are damaged."), problem=str(error))
    names = (target.paper.name, target.variant_name, target.task.name)
    found: list[tuple[str, str, list[Run]]] = []
    try:
        for source, root in roots(target, results).items():
            found += [(source, size, runs) for size, runs in find_runs(root, source, *names).items()]
    except UserError as error:
        return Entry(target, state("not_averaged", "The results are damaged."), problem=str(error))
    if not found:
        return Entry(target, state("nothing_yet", "Nothing has been run yet."))

    def order(item: tuple[str, str, list[Run]]) -> tuple:
        source, size, runs = item
        finished = [run for run in runs if run.state == "finished"]
        return rank(bool(finished), max(r.agent_steps for r in finished or runs), source == "own", size)

    source, size, runs = min(found, key=order)
    finished = tuple(run for run in runs if run.state == "finished")
    verdict = verdict_of(target.task, finished) if finished else waiting_verdict(runs)
    return Entry(target, verdict, source, size, finished)


def all_targets(loaded: Mapping[str, papers.Paper]) -> list[Target]:
    """Every page there is, in order of publication, base variants first."""
    found = []
    for paper in sorted(loaded.values(), key=lambda p: (p.citation["year"], p.name)):
        for variant in sorted(paper.variants.values(), key=lambda v: bool(v.name)):
            for task in variant.tasks.values():
                name = papers.Target(paper.name, variant.name or None, task.name).name
                found.append(Target(name, paper, variant, task, variant.name or None))
    return found


# --- one cell of the matrix ---


def cell(entry: Entry, has_page: bool) -> dict:
    """What the template shows: a sign, a number, and all of it in words."""
    v = entry.verdict
    words = [v.word]
    number = ""
    if v.score is not None:
        number = score_in_words(v.score).split(" ± ")[0]
        words.append(f"{score_in_words(v.score)}, {seeds_in_words(v.score.n)}")
    if v.g is not None:
        words.append(f"{format_percent(v.g.value)} of the published margin")
    if v.fraction is not None:
        words.append(f"{format_percent(v.fraction)} of the paper's frames")
    if entry.size:
        words.append(f"size {size_name(entry.size)}, {'recorded' if entry.source == 'recorded' else 'own'}")
    if entry.problem:
        words = [entry.problem]
    return {
        "key": "damaged" if entry.problem else v.key,
        "colour": v.colour,
        "sign": SIGNS.get("not_averaged" if entry.problem else v.key, "●"),
        "number": number or {"in_progress": "running", "nothing_yet": ""}.get(v.key, v.word.lower()),
        "share": format_percent(v.g.value) if v.g is not None else "",
        "words": "; ".join(words),
        "page": entry.page if has_page else None,
        "name": entry.target.name,
        "has": entry.size is not None or entry.problem is not None,
    }


# --- the aggregate of one paper ---


def normalised(entry: Entry) -> list[float] | None:
    """Human-normalised scores, one a seed; None where the task has no human or random score to measure with."""
    human, random = value_of(entry.target.task.human), value_of(entry.target.task.random)
    if entry.verdict.score is None or human is None or random is None or human == random:
        return None
    return [(score - random) / (human - random) for score in entry.scores]


def ours_against(entry: Entry) -> str | None:
    """win, tie (equal as printed) or loss against the paper's own score; None where the two are not compared."""
    row = entry.target.task.published
    if row is None or entry.verdict.score is None:
        return None
    digits = len(f"{row.value:.10f}".rstrip("0").split(".")[1])
    ours, theirs = round(entry.verdict.score.mean, digits), round(row.value, digits)
    return "win" if ours > theirs else "loss" if ours < theirs else "tie"


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """`93 % (85 to 101 %)`, rounded to what the interval allows."""
    if interval is None:
        return format_percent(value)
    decimals = min(2, max(0, decimals_for(50 * (interval[1] - interval[0]))))
    middle, low, high = (format_number(100 * x, decimals) for x in (value, *interval))
    return f"{middle} % ({low} to {high} %)"


def aggregate(entries: Sequence[Entry]) -> dict | None:
    """Median and interquartile mean over the games of one paper that have scores; None where none has.

    All games enter with as many seeds as every one of them has; from 2 on there is an interval.
    """
    scored = [(entry, values) for entry in entries if (values := normalised(entry)) is not None]
    if not scored:
        return None
    seeds = min(len(values) for _, values in scored)
    table = np.array([values[:seeds] for _, values in scored]).T  # runs x games
    printed = [
        (e.target.task.published.value - e.target.task.random.value)
        / (e.target.task.human.value - e.target.task.random.value)
        for e, _ in scored
        if e.target.task.published is not None
    ]
    outcomes = [outcome for entry, _ in scored if (outcome := ours_against(entry))]
    theirs = len(printed) == len(scored)
    return {
        "games": len(scored),
        "seeds": seeds,
        "median": with_interval(
            median_over_games(table), median_over_games_interval(table) if seeds > 1 else None
        ),
        "iqm": with_interval(
            interquartile_mean(table), interquartile_mean_interval(table) if seeds > 1 else None
        ),
        "paper_median": format_percent(float(np.median(printed))) if theirs else None,
        "paper_iqm": format_percent(interquartile_mean(np.array(printed))) if theirs else None,
        "outcomes": {what: outcomes.count(what) for what in ("win", "tie", "loss")} if outcomes else None,
        "values": {
            "median": median_over_games(table),
            "iqm": interquartile_mean(table),
            "games": [entry.target.task.name for entry, _ in scored],
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
