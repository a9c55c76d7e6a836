"""Writes the table of results in README.md from the recorded runs: `python -m reports.readme`; `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common import papers
from common.errors import UserError, run_main
from common.evaluation.ranges import score_range
from common.evaluation.statistics import (
    as_printed,
    estimate_in_words,
    format_percent,
    seed_interval,
)
from common.evaluation.verdict import WORDS, seeds_in_words
from common.files import write_file
from common.say import say
from reports.index import Entry, all_targets, entry_of
from reports.scores import judge, length_of
from reports.table_page import context_of

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results, written by python -m reports.readme -->", "<!-- end of results -->"
NOWHERE = ROOT / "no-results"  # one's own runs do not count here
NUMBERS = {2: "two seeds", 3: "three seeds", 5: "five seeds", 10: "ten seeds", 20: "twenty seeds"}


def seeds(entry: Entry) -> str:
    return NUMBERS.get(len(entry.finished), seeds_in_words(len(entry.finished)))


def row_of(entry: Entry) -> tuple[str, str, str]:
    """(ours, published, what it says)."""
    task, verdict, runs = entry.target.task, entry.verdict, entry.finished
    if task.claims:
        judged = judge(entry.target, runs)[1]
        held = sum(claim.key == "holds" for claim in judged)
        whose = f"{task.claims_by}:" if task.claims_by else "the paper's"
        compared = f"{whose} claims as stated inequalities" if task.in_paper else "not in the paper"
        return f"{held} of {len(judged)} claims hold, {seeds(entry)}", compared, verdict.word.lower()
    progress = runs[0].run["progress"]
    ours = f"{estimate_in_words(seed_interval(entry.scores, bounds=score_range(task)))}, {seeds(entry)}"
    earlier = ", made under earlier rules" if any(run.superseded for run in runs) else ""
    if task.bar is not None:
        reached = sum(score >= task.bar for score in entry.scores)
        return (
            ours,
            "not in the paper",
            f"{reached} of {len(runs)} seeds reach our bar of {task.bar:g}{earlier}",
        )
    share = format_percent(verdict.fraction) if verdict.fraction is not None and verdict.fraction < 1 else ""
    whole = length_of(task)
    length = f"{share} of {whole}" if share else whole
    if task.published is None:
        steps = f"{progress['agent_steps'] / 1e6:.1f} million agent steps"
        return f"{ours}, {steps}", "no score is printed", f"{length}{earlier}"
    spread = f" ± {as_printed(task.published.stdev)}" if task.published.stdev else ""
    by = f" ({task.protocol.published_by})" if task.protocol.published_by else ""
    published = (
        f"{as_printed(task.published.value)}{spread}{by} at {task.paper_frames / 1e6:g} million frames"
    )
    if task.random:
        published += f" (random play: {as_printed(task.random.value)})"
    return (
        f"{ours}, {progress['frames'] / 1e6:.1f} million frames",
        published,
        f"{verdict.word.lower()}: {length}{earlier}",
    )


def table_row(paper: papers.Paper, table) -> tuple[str, str, str] | None:
    context = context_of(paper, table, NOWHERE)
    if not context["runs"]:
        return None
    said = "; ".join(filter(None, (WORDS[context["key"]][0].lower(), context["decided"])))
    return f"{context['runs']} of {context['wanted']} runs", table.source, said


def block() -> str:
    """The table between its two marks. A run that a printed table shows stands there alone, unless it is of the paper itself."""
    loaded = papers.load_papers()
    lines = ["| page | ours | published | what it says |", "| --- | --- | --- | --- |"]
    tables = {
        f"{paper.name}_{table.name}": (paper, table)
        for paper in loaded.values()
        for table in paper.printed_tables
    }
    for name, (paper, table) in tables.items():
        if row := table_row(paper, table):
            lines.append(f"| `{name}` | {' | '.join(row)} |")
    shown = {
        (p.name, row.variant, task)
        for p, t in tables.values()
        for row in t.rows
        for task in t.tasks
        if row.variant
    }
    entries = [entry_of(target, NOWHERE) for target in all_targets(loaded)]
    kinds = {"atari": 0, "gym": 1, "claims": 2}
    for entry in sorted(entries, key=lambda e: (e.target.task.bar is not None, kinds[e.target.task.kind])):
        target = entry.target
        if entry.finished and (target.paper.name, target.variant_name, target.task.name) not in shown:
            lines.append(f"| `{target.name}` | {' | '.join(row_of(entry))} |")
    return "\n".join([BEGIN, *lines, END])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m reports.readme", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 2 where README.md says something else"
    )
    args = parser.parse_args(argv)
    file = ROOT / "README.md"
    text = file.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(
            f"{file}: the marks {BEGIN!r} and {END!r} must stand once each around the table of results"
        )
    head, rest = text.split(BEGIN)
    new = head + block() + rest.split(END)[1]
    if args.check and new != text:
        raise UserError(
            f"{file}: the table of results is not that of the recorded runs; run python -m reports.readme"
        )
    if new != text:
        write_file(file, new.encode())
        say(f"{file}: written anew")


if __name__ == "__main__":
    sys.exit(run_main(main))
