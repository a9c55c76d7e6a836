"""A site of all pages that have results: `python -m reports.site [--results results] [--out site]`.

The index, every page with results, each paper, each printed table, and each task with runs; links are relative, so that the folder
can be put on any static host or opened from a disk. Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common import papers
from common.errors import run_main
from common.say import say
from reports.compared import tasks_compared
from reports.index import Entry, render_index
from reports.paper_page import render_paper
from reports.render import build, write
from reports.table_page import render_table
from reports.task_page import render_task


def summaries(
    entries: Sequence[Entry], loaded: dict[str, papers.Paper]
) -> tuple[list[str], list[str], list[str]]:
    """The papers and variants, the tables and the tasks that have a page in a site."""
    agents = [papers.agent_name(paper.name, v or None) for paper in loaded.values() for v in paper.variants]
    tables = [f"{paper.name}_{table.name}" for paper in loaded.values() for table in paper.printed_tables]
    tasks = {e.target.task.name for e in entries if e.finished and not e.target.task.claims}
    return agents, tables, sorted(tasks | {*tasks_compared([e.target for e in entries if e.finished])})


def render_site(results: Path, out: Path) -> list[Path]:
    """Writes all pages into `out` and returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    loaded = papers.load_papers()
    written = []
    entries = render_index(results, out / "index.html", previews=False)
    for entry in entries:
        if entry.size is not None:
            text, _ = build(entry.target, "own", results, read=entry.read)
            write(out / entry.page, text)
            written.append(out / entry.page)
    agents, tables, tasks = summaries(entries, loaded)
    written += [render_paper(name, results, out / f"{name}.html", loaded) for name in agents]
    written += [render_table(name, results, out / f"{name}.html", loaded) for name in tables]
    written += [render_task(name, results, out / f"{name}.html", loaded) for name in tasks]
    render_index(results, out / "index.html", previews=False)  # with links to all that is there now
    return [*written, out / "index.html"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reports.site",
        description="Put all pages with results into a folder for a static host.",
    )
    parser.add_argument("--out", type=Path, default=Path("site"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args(argv)
    pages = render_site(args.results, args.out)
    size = sum(page.stat().st_size for page in pages)
    say(f"{args.out}: {len(pages)} pages, {size / 1e6:.0f} MB; open {args.out / 'index.html'}")


if __name__ == "__main__":
    run_main(main)
