"""The page of a whole paper: `python -m reports.paper_page dqn [--results results] [--out FILE]`; `dqn-fast` for a variant.

The paper's claims come first, then its main table, aggregates over games, learning curves and what it all took. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common import papers
from common.errors import UserError, run_main, suggestion
from common.evaluation import aggregates
from common.evaluation.ranges import score_range
from common.evaluation.statistics import (
    as_printed,
    columns_in_words,
    format_percent,
    seed_interval,
)
from common.evaluation.verdict import MIN_SEEDS, WORDS, Verdict, state
from common.papers.printed import PaperClaim
from common.say import say
from common.summaries import tasks_in
from reports.charts import draw
from reports.curves import Chart, Line, series_of, within
from reports.render import environment, write
from reports.runs import SeedRun
from reports.scores import judge
from reports.table_page import csv_of, decide, latex_of, measured
from reports.target import value_of
from reports.whole import (
    LIMITED,
    NOT_IN_PAPER,
    Cell,
    Decision,
    Missing,
    cell_of,
    codes_of,
    command,
    counted,
    missing_of,
    overall,
    said,
    target_of,
    waiting,
)

LEVELS = np.linspace(0, 3, 61)  # of the performance profile, in human levels
SMALL = 30  # learning curves drawn


def find_agent(name: str, loaded: Mapping[str, papers.Paper]) -> tuple[papers.Paper, str]:
    """(paper, variant) of "dqn" or "dqn-fast"; the paper itself is the variant "". UserError for an unknown one."""
    known = {
        papers.agent_name(paper.name, v or None): (paper, v)
        for paper in loaded.values()
        for v in paper.variants
    }
    if name not in known:
        raise UserError(f"unknown paper {name!r}{suggestion(name, known)}")
    return known[name]


def human_normalised(cell: Cell) -> np.ndarray | None:
    """Of each run (score - random) / |human - random|; None without runs, or where the task has no such scores."""
    human, random = value_of(cell.target.task.human), value_of(cell.target.task.random)
    if not cell.scores or human is None or random is None or human == random:
        return None
    return (np.array(cell.scores) - random) / abs(human - random)


def verdict_of(cell: Cell) -> Verdict:
    if cell.runs:
        return judge(cell.target, cell.runs)[0]
    if cell.short:
        return state("too_short", "There are only runs that are shorter than the paper's.")
    return state("nothing_yet", "Nothing has been run at the paper's length.")


# --- claims ---


def decide_claim(
    claim: PaperClaim, paper: papers.Paper, cells: Mapping[str, Cell], results: Path
) -> Decision:
    """cells: task -> runs of the claim's variant."""
    if claim.by == "nothing":
        return Decision("not_testable", claim.reason[:1].upper() + claim.reason[1:] + ".")
    if claim.by == "table":
        table = next(t for t in paper.printed_tables if t.name == claim.table)
        comparison = next(c for c in table.claims if c.name == claim.comparison)
        page = f"{paper.name}_{table.name}.html"
        command = f"./run snakemake reports/{page} --config budget=paper seeds={table.seeds}"
        decision = decide(comparison, measured(paper, table, results), command)
        return Decision(decision.key, decision.sentence, decision.missing, links=((page, table.source),))
    links = (
        tuple((cells[t].page, cells[t].target.task.title) for t in claim.tasks if cells[t].runs)
        if claim.by == "tasks"
        else ()
    )
    if claim.by == "tasks":
        return _by_tasks([cells[t] for t in claim.tasks], links)
    agent = papers.agent_name(paper.name, claim.variant or None)
    lacking = [task for task in claim.tasks if len(cells[task].runs) < MIN_SEEDS]
    command = f"./run snakemake reports/{agent}_{{{','.join(lacking)}}}.html --config budget=paper seeds={MIN_SEEDS}"
    about = [cells[task] for task in lacking]
    if len(lacking) == 1:  # a shell leaves braces around one word
        command = command.replace("{", "").replace("}", "")
    if len(lacking) > 8:
        suite = {*claim.tasks} == tasks_in("atari49", papers.load_papers())
        which = f"targets={agent}_pong suite=atari49" if suite else f'targets="{agent}_*"'
        command = f"./run snakemake --config {which} budget=paper seeds={MIN_SEEDS}"
        about = [cell for task, cell in cells.items() if task in claim.tasks or not suite]
    missing = missing_of([cells[t] for t in claim.tasks], lambda cell: MIN_SEEDS, command, about)
    return (_by_games if claim.by == "games" else _by_aggregate)(claim, cells, missing)


def _by_tasks(cells: Sequence[Cell], links: tuple) -> Decision:
    verdicts = [verdict_of(cell) for cell in cells]
    key = overall(
        [
            Decision(
                v.key
                if v.key in ("replicated", "not_replicated", "nothing_yet", "too_short")
                else "undecided",
                "",
            )
            for v in verdicts
        ]
    )
    lacking = [cell for cell in cells if not cell.runs]
    command = f"./run snakemake {' '.join(f'reports/{cell.page}' for cell in lacking)} --config budget=paper"
    missing = missing_of(lacking, lambda cell: papers.default_seeds(cell.target.task, "paper"), command)
    return Decision(key, " ".join(v.sentence for v in verdicts), missing, links=links)


def _by_games(claim: PaperClaim, cells: Mapping[str, Cell], missing: Missing | None) -> Decision:
    """Settled as soon as the games that are not played yet cannot change it."""
    above, below = 0, 0
    for task in claim.tasks:
        cell = cells[task]
        if claim.printed:
            values = (
                np.array(cell.scores) - claim.printed[task].value if len(cell.scores) >= MIN_SEEDS else None
            )
            level = 0.0
        else:
            values, level = human_normalised(cell) if len(cell.scores) >= MIN_SEEDS else None, claim.level
        if values is not None:
            above += int(values.mean() > level)
            below += int(values.mean() <= level)
    total, needed = len(claim.tasks), int(claim.at_least)
    so_far = f"{above} of {above + below} games with {MIN_SEEDS} seeds of the paper's length"
    none = f"No game has {MIN_SEEDS} seeds of the paper's length yet"
    text = f"{so_far if above + below else none}; {needed} of {total} are claimed."
    key = (
        "replicated"
        if above >= needed
        else "not_replicated"
        if below > total - needed
        else waiting([cells[task] for task in claim.tasks])
    )
    return Decision(key, text, missing if key not in ("replicated", "not_replicated") else None)


def _by_aggregate(claim: PaperClaim, cells: Mapping[str, Cell], missing: Missing | None) -> Decision:
    scores = [v for t in claim.tasks if (v := human_normalised(cells[t])) is not None and len(v) >= MIN_SEEDS]
    if len(scores) < len(claim.tasks):
        return Decision(
            waiting([cells[t] for t in claim.tasks]),
            f"{len(scores)} of {len(claim.tasks)} games have {MIN_SEEDS} seeds of the paper's length.",
            missing,
        )
    statistic = {"median": aggregates.median, "mean": aggregates.mean}[claim.statistic]
    value, (low, high) = aggregates.with_interval(scores, statistic)
    text = f"{format_percent(value)} of human level ({format_percent(low)} to {format_percent(high)}); {format_percent(claim.at_least)} is claimed."
    return Decision(
        "replicated" if low >= claim.at_least else "not_replicated" if high < claim.at_least else "undecided",
        text,
    )


# --- the main table, aggregates, curves ---


def table_row(cell: Cell) -> dict:
    task, verdict = cell.target.task, verdict_of(cell)
    estimate = seed_interval(cell.scores, bounds=score_range(task)) if cell.scores else None
    ours, interval = columns_in_words(estimate) if estimate else ("", "")
    return {
        "task": task.title, "page": cell.page, "ours": ours, "interval": interval,
        "bootstrap": estimate is not None and estimate.method == "bootstrap", "seeds": len(cell.runs),
        "published": as_printed(task.published.value) if task.published else "",
        "random": as_printed(task.random.value) if task.random else "",
        "human": as_printed(task.human.value) if task.human else "",
        "share": format_percent(verdict.g.value) if verdict.g else "",
        "verdict": verdict, "other": cell.other or "", "has": bool(cell.runs),
    }  # fmt: skip


def summary_of(cells: Sequence[Cell]) -> dict | None:
    """Aggregates over games with human-normalised scores; None where there is none, or only one game."""
    scored = [(cell, v) for cell in cells if (v := human_normalised(cell)) is not None]
    if len(scored) < 2:
        return None
    scores = [values for _, values in scored]
    printed = [
        np.array(
            [
                (c.target.task.published.value - c.target.task.random.value)
                / abs(c.target.task.human.value - c.target.task.random.value)
            ]
        )
        for c, _ in scored
        if c.target.task.published
    ]
    rows = []
    for name, statistic in {
        "Interquartile mean": aggregates.interquartile_mean, "Median": aggregates.median, "Mean": aggregates.mean,
        "Optimality gap": aggregates.optimality_gap, "Games above human level": aggregates.share_above(1.0),
    }.items():  # fmt: skip
        value, interval = aggregates.with_interval(scores, statistic)
        theirs = float(statistic(printed)) if len(printed) == len(scored) else None
        rows.append({
            "name": name, "ours": format_percent(value), "theirs": format_percent(theirs) if theirs is not None else "",
            "interval": f"{format_percent(interval[0])} to {format_percent(interval[1])}" if interval else "one seed a game",
        })  # fmt: skip
    profile = aggregates.performance_profile(scores, LEVELS)
    curve = [(float(x), *map(float, point)) for x, point in zip(LEVELS, profile, strict=True)]
    figure = {"title": "Performance profile", "x": "human-normalised score", "y": "share of runs above it"}
    return {"rows": rows, "games": len(scored), "profile": draw(figure, {"ours": curve}, 220),
            "band": any(len(values) > 1 for values in scores)}  # fmt: skip


def outcomes_of(paper: papers.Paper, variant: str, cells: Mapping[str, Cell]) -> list[dict]:
    """Wins, ties and losses of ours against each printed agent, over the games that both have."""
    rows = []
    for table in paper.printed_tables:
        if table.layout != "scores":
            continue
        for line in table.rows:
            games = [t for t in table.tasks if t in cells and cells[t].scores and t in line.printed]
            pairs = [(np.mean(cells[t].scores), line.printed[t].value) for t in games]
            if pairs:
                digits = [len(as_printed(b).split(".")[1]) if "." in as_printed(b) else 0 for _, b in pairs]
                signs = [np.sign(round(a, d) - round(b, d)) for (a, b), d in zip(pairs, digits, strict=True)]
                rows.append(
                    {
                        "against": f"{line.title}, as printed in {table.source}",
                        "win": signs.count(1),
                        "tie": signs.count(0),
                        "loss": signs.count(-1),
                    }
                )
    return rows


def curve_of(run: SeedRun) -> tuple[list, list]:
    for column in ("eval_score", "train_score_100"):
        xs, ys = run.curve.series(column)
        if xs:
            return xs, ys
    return [], []


def small_charts(cells: Sequence[Cell]) -> list[dict]:
    charts = []
    for cell in [c for c in cells if c.runs and c.scores][:SMALL]:
        curves = [(f"seed {run.seed}", *curve_of(run)) for run in cell.runs if curve_of(run)[0]]
        if not curves:
            continue
        task = cell.target.task
        lines = [Line("published", task.published.value, "paper")] if task.published else []
        series = [within(s, score_range(task)) for s in series_of(curves, small=True, crowd=4)]
        chart = Chart(cell.target.name, task.title, series, lines, small=True)
        charts.append({"title": task.title, "page": cell.page, "svg": chart.svg})
    return charts


def hours_of(runs: Sequence[SeedRun]) -> float:
    return sum((run.run["cost"]["seconds"] or 0) for run in runs) / 3600


def context_of(paper: papers.Paper, variant: str, results: Path) -> dict:
    """All that the template shows."""

    def cells_of(name: str) -> dict[str, Cell]:
        return {task: cell_of(target_of(paper, name, task), results) for task in paper.variants[name].tasks}

    of_variant = {variant: cells_of(variant)}
    decisions = []
    for claim in paper.claims if not variant else ():
        if claim.variant not in of_variant:
            of_variant[claim.variant] = cells_of(claim.variant)
        decisions.append((claim, decide_claim(claim, paper, of_variant[claim.variant], results)))
    cells = of_variant[variant]
    scored = [cell for cell in cells.values() if not cell.target.task.claims and cell.target.task.in_paper]
    aside = [cell for cell in cells.values() if not cell.target.task.claims and not cell.target.task.in_paper]
    with_claims = [cell for cell in cells.values() if cell.target.task.claims]
    rows = [table_row(cell) for cell in scored]
    runs, runs_aside = (
        [run for cell in cells.values() if cell.target.task.in_paper is printed for run in cell.runs]
        for printed in (True, False)
    )
    agent = papers.agent_name(paper.name, variant or None)
    verdicts = [verdict_of(cell) for cell in cells.values() if cell.runs]
    if decisions:
        key = overall([d for _, d in decisions])
    else:
        key = (
            overall(
                [
                    Decision(v.key, "")
                    for v in verdicts
                    if v.key in ("replicated", "not_replicated", "undecided")
                ]
            )
            if verdicts
            else waiting(list(cells.values()))
        )
    header = ["Task", "Ours", "95 % interval", "Seeds", "Published", "Random", "Human"]
    latex = [
        [r["task"], r["ours"], r["interval"], str(r["seeds"]), r["published"], r["random"], r["human"]]
        for r in rows
        if r["has"]
    ]
    return {
        "paper": paper, "citation": paper.citation, "variant": paper.variants[variant] if variant else None, "agent": agent,
        "claims": decisions, "key": key, "rows": rows, "n_runs": len(runs), "n_aside": len(runs_aside), "n_tasks": sum(r["has"] for r in rows),
        "tasks_with_claims": [{"title": c.target.task.title, "page": c.page, "verdict": verdict_of(c), "seeds": len(c.runs), "other": c.other} for c in with_claims],
        "tables": [] if variant else [{"page": f"{paper.name}_{t.name}.html", "title": t.title, "source": t.source} for t in paper.printed_tables],
        "variants": [] if variant else [(papers.agent_name(paper.name, v.name), v.title) for v in paper.variants.values() if v.name],
        "summary": summary_of(scored), "outcomes": outcomes_of(paper, variant, cells), "charts": small_charts(scored),
        "aside": [(c.target.task.title.removesuffix(NOT_IN_PAPER), c.page) for c in aside if c.runs or c.other],
        "hours": hours_of(runs), "hours_aside": hours_of(runs_aside), "codes": codes_of(list(cells.values())),
        "csv": csv_of([(agent, task, cell) for task, cell in cells.items()], agent), "latex": latex_of(header, latex, f"{paper.short}: {paper.title}"),
        "page": f"reports/{agent}.html",
    }  # fmt: skip


def render_paper(
    name: str, results: Path, out: Path | None = None, loaded: Mapping[str, papers.Paper] | None = None
) -> Path:
    """Writes the page and returns its path. UserError for an unknown paper."""
    paper, variant = find_agent(name, loaded or papers.load_papers())
    context = context_of(paper, variant, results)
    out = out or Path("reports") / f"{name}.html"
    write(
        out, environment().get_template("paper_page.html.j2").render(**context, words=WORDS, limited=LIMITED)
    )
    say(said(f"{out}: {counted(context['n_runs'], 'run')} of the paper's length.", context["claims"]))
    return out


if __name__ == "__main__":
    run_main(
        lambda: command(
            "paper", "dqn, or dqn-fast", "Render a whole paper from whatever results there are.", render_paper
        )
    )
