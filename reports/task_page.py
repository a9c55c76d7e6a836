"""The page of a task: `python -m reports.task_page pong [--results results] [--out FILE]`. Every agent that has runs there.

Of each agent the longest finished runs, one's own or recorded, as on its own page. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from common import papers
from common.errors import UserError, run_main, suggestion
from common.evaluation.ranges import score_range
from common.evaluation.statistics import (
    as_printed,
    columns_in_words,
    format_percent,
    seed_interval,
)
from common.evaluation.verdict import WORDS
from common.say import say
from reports import compared
from reports.charts import PALETTE
from reports.compared import tasks_compared
from reports.curves import Chart, Line, Series, mean_of, series_of, thin, within
from reports.index import Entry, all_targets, entry_of
from reports.render import MAX_VIDEO, environment, excerpt, video_source, write
from reports.runs import SeedRun
from reports.whole import LIMITED, NOT_IN_PAPER, command, counted
from reports.words import duration, size_name

POINTS = 200  # of a curve
CROWD = 4  # lines; of more, bands are fainter. Of more than there are colours, each has a chart of its own
FAINT = 40  # points of another agent's line there
MAX_VIDEOS = 1_200_000  # characters of all films on the page


def entries_of(task: str, results: Path, loaded: Mapping[str, papers.Paper]) -> list[Entry]:
    """Of all agents that play it and have finished runs. UserError for an unknown task."""
    targets = all_targets(loaded)
    known = {target.task.name for target in targets if not target.task.claims} | {*tasks_compared(targets)}
    if task not in known:
        raise UserError(f"unknown task {task!r}{suggestion(task, sorted(known))}")
    entries = [entry_of(t, results) for t in targets if t.task.name == task and not t.task.claims]
    return [entry for entry in entries if entry.finished]


def name_of(entry: Entry) -> str:
    variant = entry.target.variant.title if entry.target.variant_name else ""
    return f"{entry.target.paper.short}{', ' if variant else ''}{variant}"


def curve_of(run: SeedRun) -> tuple[str, list, list, list] | None:
    """(name, frames, scores, hours): of evaluation phases, else of the last training episodes."""
    for column in ("eval_score", "train_score_100"):
        xs, ys = run.curve.series(column)
        if xs:
            _, hours = run.curve.series("hours")
            return f"seed {run.seed}", xs, ys, hours
    return None


def series_of_agent(entry: Entry, number: int) -> Series | None:
    """One line: the mean over seeds with its band, or the one seed's."""
    curves = [curve for run in entry.finished if (curve := curve_of(run))]
    if not curves:
        return None
    mean = mean_of(curves, POINTS) if len(curves) > 1 else None
    line = mean or series_of(curves[:1], crowd=2)[0]
    return replace(
        within(line, score_range(entry.target.task)),
        name=name_of(entry),
        css=f"s{number % PALETTE + 1}",
    )


def against_time(lines: Sequence[Series]) -> tuple[str, list[Series]]:
    """(unit, the lines against it): minutes where all are short. Those without a clock are left out."""
    timed = [line for line in lines if line.hours and None not in line.hours]
    short = all(line.hours[-1] < 2 for line in timed)
    times = 60 if short else 1
    return "minutes" if short else "hours", [
        replace(line, xs=[times * h for h in line.hours]) for line in timed
    ]


def small_charts(lines: Sequence[Series], marks: Sequence[Line]) -> list[dict]:
    """A chart for each line, all on the same axes, with the others behind it, faint and without their bands."""
    faint = []
    for line in lines:
        xs, ys = thin(line.xs, line.ys, FAINT)
        faint.append(Series(line.name, xs, ys, "faint"))
    charts = []
    for n, line in enumerate(lines):
        shown = [*faint[:n], *faint[n + 1 :], replace(line, css="s1")]
        chart = Chart("", line.name, shown, marks, small=True, beside=lines)
        charts.append({"title": line.name, "svg": chart.svg})
    return charts


def row_of(entry: Entry) -> dict:
    task, verdict = entry.target.task, entry.verdict
    estimate = seed_interval(entry.scores, bounds=score_range(task))
    ours, interval = columns_in_words(estimate)
    hours = [run.run["cost"]["seconds"] for run in entry.finished if run.run["cost"].get("seconds")]
    return {
        "name": name_of(entry), "page": entry.page, "paper": f"{entry.agent}.html", "ours": ours,
        "interval": interval, "bootstrap": estimate.method == "bootstrap",
        "seeds": estimate.n, "size": f"{size_name(entry.size)}, {'recorded' if entry.source == 'recorded' else 'your own'}",
        "length": format_percent(verdict.fraction) if verdict.fraction is not None else "",
        "hours": duration(sum(hours) / len(hours)) if hours else "",
        "published": as_printed(task.published.value) if task.published else "", "verdict": verdict,
        "says": f"{sum(score >= task.bar for score in entry.scores)} of {estimate.n} reach our bar of {task.bar:g}"
        if task.published is None and task.bar is not None
        else "",
    }  # fmt: skip


def films_of(entries: Sequence[Entry]) -> list[dict]:
    """Of each agent one film, while they fit on the page; the others are named with their pages."""
    films, room = [], MAX_VIDEOS
    for entry in entries:
        path = next((run.video for run in entry.finished if run.video), None)
        found = excerpt(path, min(room, MAX_VIDEO)) if path else None
        source = video_source(found[0]) if found else None
        room -= len(source or "")
        films.append(
            {"name": name_of(entry), "page": entry.page, "src": source, "kind": entry.target.task.kind}
        )
    return [film for film in films if film["src"]]


def context_of(task: str, results: Path, loaded: Mapping[str, papers.Paper]) -> dict:
    """All that the template shows."""
    entries = entries_of(task, results, loaded)
    lines = [line for n, entry in enumerate(entries) if (line := series_of_agent(entry, n))]
    marks = {}
    for entry in entries:
        kind = entry.target.task
        for name, row in (("random", kind.random), ("human", kind.human)):
            if row:
                marks.setdefault(name, set()).add(row.value)
    same = [
        Line(f"{name} {as_printed(v)}", v, name) for name, vs in marks.items() if len(vs) == 1 for v in vs
    ]
    unit, timed = against_time(lines)
    apart = len(lines) > PALETTE
    drawn = [("Against frames", lines), (f"Against {unit} of one process", timed)]
    charts = [
        {"title": title, "smalls": small_charts(series, same) if apart else [], "svg": "" if apart else Chart("", title, series, same).svg}
        for title, series in drawn if series
    ]  # fmt: skip
    title = next(t.task.title for t in all_targets(loaded) if t.task.name == task)
    return {
        "task": task, "title": title.removesuffix(NOT_IN_PAPER), "rows": [row_of(entry) for entry in entries],
        "charts": charts, "crowded": len(lines) > CROWD,
        "legend": [] if apart else [(line.name, line.css) for line in lines], "films": films_of(entries), "page": f"reports/{task}.html",
        "differ": sorted(name for name, values in marks.items() if len(values) > 1),
    }  # fmt: skip


def render_task(
    task: str, results: Path, out: Path | None = None, loaded: Mapping[str, papers.Paper] | None = None
) -> Path:
    """Writes the page and returns its path. UserError for an unknown task."""
    loaded = loaded or papers.load_papers()
    if several := tasks_compared(all_targets(loaded)).get(task):
        template, context = "compared.html.j2", compared.context_of(several, results)
        agents = context["agents"]
    else:
        template, context = "task_page.html.j2", context_of(task, results, loaded)
        agents = context["rows"]
    out = out or Path("reports") / f"{task}.html"
    write(out, environment().get_template(template).render(**context, words=WORDS, limited=LIMITED))
    say(f"{out}: {counted(len(agents), 'agent')} with runs")
    return out


if __name__ == "__main__":
    run_main(lambda: command("task", "pong", "Render every agent's runs on one task.", render_task))
