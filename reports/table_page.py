"""The page of a printed table: `python -m reports.table_page ppo_table_1 [--results results] [--out FILE]`.

Ours stands beside each printed value, with an interval; below come the claims, the whole matrix, and what is missing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import papers
from common.errors import UserError, run_main, suggestion
from common.evaluation.aggregates import REPETITIONS, interval
from common.evaluation.ranges import score_range
from common.evaluation.statistics import (
    DASH,
    MINUS,
    as_printed,
    decimals_for,
    estimate_in_words,
    format_mean,
    format_number,
    seed_interval,
)
from common.evaluation.verdict import WORDS
from common.papers.printed import Comparison, Table
from common.say import say
from reports.render import environment, write
from reports.whole import (
    WAITING,
    Cell,
    Decision,
    by_interval,
    cell_of,
    codes_of,
    command,
    decided,
    missing_of,
    overall,
    said,
    target_of,
    waiting,
)

HOW = {  # of a list of numbers, or of arrays of one shape
    "lowest": lambda values: np.min(np.stack(values), axis=0),
    "highest": lambda values: np.max(np.stack(values), axis=0),
    "mean": lambda values: np.mean(np.stack(values), axis=0),
}


def find_table(name: str, loaded: Mapping[str, papers.Paper]) -> tuple[papers.Paper, Table]:
    """By the page's name, ppo_table_1. UserError for an unknown one."""
    known = {
        f"{paper.name}_{table.name}": (paper, table)
        for paper in loaded.values()
        for table in paper.printed_tables
    }
    if name not in known:
        raise UserError(f"unknown table {name!r}{suggestion(name, known)}")
    return known[name]


@dataclass(frozen=True)
class Objectives:
    """A table of objectives, measured: (row, task) -> its cell, task -> (random, best), by the first reading of random play unless
    `read_as` says another."""

    table: Table
    cells: Mapping[tuple[str, str], Cell]
    scale: Mapping[str, tuple[float, float]]

    def read_as(self, reading: str) -> Objectives:
        random = {task: row.value for task, row in self.table.random[reading].items()}
        return replace(
            self, scale={t: (random[t], max(best, random[t] + 1e-9)) for t, (_, best) in self.scale.items()}
        )

    def normalised(self, variant: str, task: str) -> np.ndarray:
        """A cell's runs from random play, 0, to the best, 1."""
        random, best = self.scale[task]
        return (np.array(self.cells[variant, task].scores) - random) / (best - random)

    def complete(self, variant: str) -> bool:
        return all(self.cells[variant, task].runs for task in self.table.tasks)

    def seeds(self, variants: Sequence[str]) -> int:
        return min(len(self.cells[v, t].runs) for v in variants for t in self.table.tasks)

    def mean(self, variant: str) -> float:
        """Each task weighs the same."""
        return float(np.mean([self.normalised(variant, task).mean() for task in self.table.tasks]))

    def drawn(self, variant: str) -> np.ndarray:
        """The mean of runs drawn anew within each task, (REPETITIONS,); every row has chance of its own."""
        number = [row.variant for row in self.table.rows].index(variant)
        rng, means = np.random.default_rng(number), []
        for task in self.table.tasks:
            runs = self.normalised(variant, task)
            means.append(runs[rng.integers(0, len(runs), (REPETITIONS, len(runs)))].mean(1))
        return np.mean(means, axis=0)


def measured(paper: papers.Paper, table: Table, results: Path) -> Objectives:
    cells = {
        (row.variant, task): cell_of(target_of(paper, row.variant, task), results, table.seeds)
        for row in table.rows
        for task in table.tasks
    }
    scale, (first, *_) = {}, table.random.values()
    for task in table.tasks:
        scores = [score for (_, t), cell in cells.items() if t == task for score in cell.scores]
        random = first[task].value
        scale[task] = random, max([*scores, random + 1e-9])
    return Objectives(table, cells, scale)


def decide(claim: Comparison, found: Objectives, command: str) -> Decision:
    """By the bootstrap interval of the difference between its two sides; undecided if the readings of random play disagree."""
    rows = [*claim.higher.rows, *claim.lower.rows]
    missing = missing_of(
        [found.cells[v, t] for v in rows for t in found.table.tasks],
        lambda cell: found.table.seeds,
        command,
        list(found.cells.values()),
    )
    incomplete = [v for v in rows if not found.complete(v)]
    if incomplete:
        cells = [found.cells[v, t] for v in rows for t in found.table.tasks]
        return Decision(
            waiting(cells),
            f"{len(rows) - len(incomplete)} of the {len(rows)} rows it is about have runs of every task."
            if len(rows) > 1
            else "The row it is about has no runs of some task.",
            missing,
        )
    keys, texts, intervals = [], [], []
    for reading in found.table.random:
        scaled = found.read_as(reading)
        means, drawn = {v: scaled.mean(v) for v in rows}, {v: scaled.drawn(v) for v in rows}
        value = float(claim.higher.of(means, HOW) - claim.lower.of(means, HOW))
        low, high = interval(claim.higher.of(drawn, HOW) - claim.lower.of(drawn, HOW))
        digits = max(0, decimals_for((high - low) / 2))
        keys.append(by_interval(low, high, found.seeds(rows)))
        intervals.append((low, high))
        texts.append(
            f"{format_number(value, digits)} (95 % interval {format_number(low, digits)} to {format_number(high, digits)})"
        )
    text = f"Difference {texts[0]}."
    if len(set(keys)) > 1:
        others = ", ".join(
            f"{other} where random play is {reading.replace('_', ' ')}"
            for reading, other in zip([*found.table.random][1:], texts[1:], strict=True)
        )
        text = f"Difference {texts[0]}, but {others}: what random play is decides."
    return Decision(keys[0] if len(set(keys)) == 1 else "undecided", text, missing, intervals[0])


def score_in_words(cell: Cell) -> str:
    """Mean ± standard deviation over seeds; their scores where such a range would hold scores that cannot be."""
    estimate = seed_interval(cell.scores, bounds=score_range(cell.target.task))
    if estimate.n == 1:
        return f"{format_number(estimate.mean, 1)} (one seed)"
    if estimate.method == "bootstrap":
        return estimate_in_words(estimate)
    error = estimate.standard_error
    return f"{format_mean(estimate.mean, error)} ± {format_number(estimate.sd, decimals_for(error))}"


def rows_of_objectives(found: Objectives) -> list[dict]:
    printed = [as_printed(row.printed["mean"].value) for row in found.table.rows]
    digits = max(len(text.partition(".")[2]) for text in printed)  # the files drop a last 0
    rows = []
    for row in found.table.rows:
        cells = [found.cells[row.variant, task] for task in found.table.tasks]
        values = {"ours": "", "interval": ""}
        if found.complete(row.variant):
            low, high = interval(found.drawn(row.variant))
            values = {
                "ours": format_number(found.mean(row.variant), 2),
                "interval": f"{format_number(low, 2)} to {format_number(high, 2)}",
            }
        rows.append({
            "title": row.title,
            "printed": format_number(row.printed["mean"].value, digits),
            "runs": sum(len(cell.runs) for cell in cells),
            "wanted": found.table.seeds * len(cells),
            "matrix": [
                {
                    "score": score_in_words(cell) if cell.runs else "",
                    "normalised": format_number(float(found.normalised(row.variant, task).mean()), 2) if cell.runs else "",
                    "seeds": ", ".join(format_number(s, 1) for s in cell.scores),
                    "other": cell.other or "",
                    "page": cell.page,
                }
                for task, cell in zip(found.table.tasks, cells, strict=True)
            ],
            **values,
        })  # fmt: skip
    return rows


def csv_of(cells: Sequence[tuple[str, str, Cell]], name: str) -> str:
    """One line a seed: row, task, seed, score, source, commit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "row", "task", "seed", "score", "source", "commit"))
    for title, task, cell in cells:
        for run in cell.runs:
            if run.evaluation:
                writer.writerow(
                    (
                        name,
                        title,
                        task,
                        run.seed,
                        run.evaluation["score"],
                        cell.source,
                        run.run["provenance"].get("commit"),
                    )
                )
    return text.getvalue()


def latex_of(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A booktabs table."""
    special = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", MINUS: "$-$", DASH: "--"}

    def plain(cell: str) -> str:
        return "".join(special.get(char, char) for char in str(cell))

    lines = [
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}",
        r"\toprule",
    ]
    lines.append(" & ".join(map(plain, header)) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(map(plain, row)) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{plain(caption)}}}", r"\end{table}", ""]
    return "\n".join(lines)


def rows_of_scores(
    paper: papers.Paper, table: Table, results: Path
) -> tuple[list[dict], dict[tuple[str, str], Cell]]:
    """One row a task: of each agent the printed score and, where it is replicated here, ours."""
    cells = {
        (row.variant, task): cell_of(target_of(paper, row.variant, task), results, table.seeds)
        for row in table.rows
        if row.variant is not None
        for task in table.tasks
    }
    rows = []
    for task in table.tasks:
        entries = []
        for row in table.rows:
            cell = cells.get((row.variant, task)) if row.variant is not None else None
            entries.append({
                "printed": as_printed(row.printed[task].value),
                "here": row.variant is not None,
                "score": score_in_words(cell) if cell and cell.runs else "",
                "seeds": len(cell.runs) if cell else 0,
                "other": (cell.other or "") if cell else "",
                "page": cell.page if cell else "",
            })  # fmt: skip
        rows.append({"title": paper.tasks[task].title, "entries": entries})
    return rows, cells


def rows_of_measures(
    paper: papers.Paper, table: Table, results: Path
) -> tuple[list[dict], dict[tuple[str, str], Cell]]:
    """One row a line of the table: of each column the printed value and ours, the geometric mean over seeds."""
    (task,) = table.tasks
    cell = cell_of(target_of(paper, "", task), results, table.seeds)
    rows = []
    for row in table.rows:
        entries = []
        for column in table.columns:
            values = [m for run in cell.runs if (m := run.measures.get(row.measures[column])) is not None]
            entries.append({
                "printed": as_printed(row.printed[column].value),
                "here": True,
                "score": format_number(float(np.exp(np.mean(np.log(values)))), 1) if values else "",
                "seeds": len(values),
                "other": "" if values else (cell.other or ("not run on this machine" if cell.runs else "")),
                "page": cell.page,
            })  # fmt: skip
        rows.append({"title": row.title, "entries": entries})
    return rows, {("", task): cell}


def context_of(paper: papers.Paper, table: Table, results: Path) -> dict:
    """All that the template shows."""
    page = f"reports/{paper.name}_{table.name}.html"
    command = f"./run snakemake {page} --config budget=paper seeds={table.seeds}"
    titles = {row.variant: row.title for row in table.rows}
    decisions: list[tuple[Comparison, Decision]] = []
    if table.layout == "objectives":
        found = measured(paper, table, results)
        cells, rows = found.cells, rows_of_objectives(found)
        decisions = [(claim, decide(claim, found, command)) for claim in table.claims]
        scale = [
            {
                "task": paper.tasks[task].title,
                "random": [format_number(rows[task].value, 1) for rows in table.random.values()],
                "best": format_number(best, 1) if any(found.cells[v, task].runs for v in titles) else DASH,
            }
            for task, (_, best) in found.scale.items()
        ]
        header = ["", *(paper.tasks[task].title for task in table.tasks)]
        latex = [[r["title"], r["printed"], r["ours"] or DASH, r["interval"] or DASH] for r in rows]
        latex_header = ["", "Printed", "Ours", "95 % interval"]
    else:
        rows, cells = (rows_of_scores if table.layout == "scores" else rows_of_measures)(
            paper, table, results
        )
        scale = []
        header = [
            "",
            *(titles.values() if table.layout == "scores" else (c.replace("_", " ") for c in table.columns)),
        ]
        latex_header = [header[0], *(text for name in header[1:] for text in (f"{name}, printed", "ours"))]
        latex = [
            [r["title"], *(t for e in r["entries"] for t in (e["printed"], e["score"] or DASH))] for r in rows
        ]
    runs = sum(len(cell.runs) for cell in cells.values())
    wanted = table.seeds * len(cells)
    key = overall([decision for _, decision in decisions])
    if not decisions or any(decision.key in WAITING for _, decision in decisions):
        key = waiting(list(cells.values()))
    lines = [(titles.get(v) or "", task, cell) for (v, task), cell in cells.items()]
    return {
        "paper": paper, "citation": paper.citation, "table": table, "rows": rows, "header": header, "scale": scale,
        "claims": decisions, "decided": decided([d for _, d in decisions]), "key": key, "runs": runs, "wanted": wanted,
        "missing": missing_of(list(cells.values()), lambda cell: table.seeds, command), "page": page, "command": command,
        "codes": codes_of(list(cells.values())),
        "hours": sum(run.run["cost"]["seconds"] for cell in cells.values() for run in cell.runs) / 3600,
        "csv": csv_of(lines, table.name),
        "latex": latex_of(latex_header, latex, f"{paper.short}, {table.source}: {table.title}"),
    }  # fmt: skip


def render_table(
    name: str, results: Path, out: Path | None = None, loaded: Mapping[str, papers.Paper] | None = None
) -> Path:
    """Writes the page and returns its path. UserError for an unknown table."""
    paper, table = find_table(name, loaded or papers.load_papers())
    context = context_of(paper, table, results)
    out = out or Path("reports") / f"{name}.html"
    write(out, environment().get_template("table_page.html.j2").render(**context, words=WORDS))
    say(said(f"{out}: {context['runs']} of {context['wanted']} runs.", context["claims"]))
    return out


if __name__ == "__main__":
    run_main(
        lambda: command(
            "table", "ppo_table_1", "Render a printed table from whatever results there are.", render_table
        )
    )
