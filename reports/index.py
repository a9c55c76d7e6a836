"""Renders the index of all pages: `python -m reports.index [--results results] [--out reports/index.html]`.

Every paper against every task, from whatever runs there are, one's own and the recorded ones. Nothing is trained. A page
that has results and was not made yet is made too, so that each coloured cell leads somewhere; it is dated 1970, so that
the workflow makes it anew (with everything it checks) as soon as it is asked for.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from common import papers
from common.errors import UserError, run_main
from common.evaluation.verdict import WORDS
from reports.overview import SIGNS, Entry, aggregates, all_targets, cell, entry_of
from reports.render import build, environment, write

PREVIEW = 1  # seconds since 1970: older than whatever a page is made from


def make_preview(entry: Entry, results: Path, out: Path) -> bool:
    """Makes a page that is missing, or was made here before and is outdated. True if there is a page then."""
    page = out.parent / entry.page
    if page.exists() and page.stat().st_mtime != PREVIEW:
        return True
    if entry.size is None:
        return page.exists()
    try:
        text, _ = build(entry.target, "own", results)
    except UserError as error:
        print(f"{page}: not made: {error}", flush=True)
        return page.exists()
    write(page, text)
    os.utime(page, (PREVIEW, PREVIEW))
    return True


def row_order(name: str, kinds: dict[str, str]) -> tuple:
    return {"atari": 0, "gym": 1, "laptop": 2}.get(kinds[name], 3), name


def matrix(entries: Sequence[Entry], has_page: dict[str, bool]) -> tuple[list[dict], list[dict]]:
    """(columns, rows): one column an agent (paper or variant), one row a task; a cell is None where the paper has no
    such task.
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
    has_page = {
        entry.target.name: make_preview(entry, results, out)
        if previews
        else (out.parent / entry.page).exists()
        for entry in entries
    }
    columns, rows = matrix(entries, has_page)
    cells = [c for row in rows for c in row["cells"] if c]
    counts = {key: sum(c["key"] == key for c in cells) for key in (*WORDS, "damaged")}
    totals = aggregates(entries)
    words = WORDS | {"damaged": ("Damaged results", "warn")}
    text = (
        environment()
        .get_template("index.html.j2")
        .render(
            columns=columns,
            rows=rows,
            cells=cells,
            aggregates=totals,
            papers=sorted(loaded.values(), key=lambda p: (p.citation["year"], p.name)),
            legend=[
                (key, *words[key], SIGNS.get(key, "!" if key == "damaged" else "●"), counts[key])
                for key in words
                if counts[key]
            ],
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
                "aggregates": [
                    {"agent": a["agent"], "length": a["length"], "seeds": a["seeds"], **a["values"]}
                    for a in totals
                ],
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
    print(f"{args.out}: {len(entries)} pages, {with_results} with results", flush=True)


if __name__ == "__main__":
    run_main(main)
