"""Runs of many targets at once: what the pages of a paper, of a printed table and of a task are made from. Nothing is trained."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import papers
from common.errors import UserError
from common.evaluation.verdict import MIN_SEEDS, WORDS
from common.papers.printed import Comparison, PaperClaim
from reports.runs import SeedRun, differences, find_runs, finished_of
from reports.target import PageTarget
from reports.words import duration

ROUNDING = 1e-9  # a difference below is none
SHORTER = "shorter than the paper's runs"
NOT_IN_PAPER = " (not in the paper)"  # at the end of a title
LIMITED = "Where Student's interval would hold scores that cannot be, the seeds' scores stand instead; of many seeds, a bootstrap's interval."


@dataclass(frozen=True)
class Cell:
    """The finished runs of one target at the paper's length and under today's rules, at most `seeds` of them, the first seeds.

    other: what else there is, in words (a shorter run, one under other rules, damaged files), where `runs` is empty; short:
    it is a finished run that is shorter.
    """

    target: PageTarget
    runs: tuple[SeedRun, ...] = ()
    source: str | None = None
    other: str | None = None
    short: bool = False

    @property
    def scores(self) -> list[float]:
        return [run.evaluation["score"] for run in self.runs if run.evaluation]

    @property
    def page(self) -> str:
        return f"{self.target.name}.html"


def target_of(paper: papers.Paper, variant: str, task: str) -> PageTarget:
    """variant: "" is the paper itself."""
    found, known = papers.find_task(paper, variant or None, task)
    return PageTarget(
        papers.Target(paper.name, variant or None, task).name, paper, found, known, variant or None
    )


def paper_settings(target: PageTarget) -> dict:
    return papers.resolve(target.paper, target.variant_name, target.task.name, "paper").settings


def cell_of(target: PageTarget, results: Path, seeds: int | None = None) -> Cell:
    """Of the sizes that ran the paper's own settings, the one with the most seeds; one's own before a recorded one."""
    try:
        found, _ = find_runs(target, results)
    except UserError as problem:
        return Cell(target, other=str(problem))
    settings, best, other, short = paper_settings(target), None, None, False
    for source, size, runs in found:
        finished = finished_of(runs)
        alike = [
            run
            for run in finished
            if papers.settings_of(run.run, target.paper, target.task) == settings and not run.superseded
        ]
        if not alike:
            if finished and other is None:
                why = _why_not(finished[0], settings)
                other, short = f"{size}: {why}", why == SHORTER
            continue
        if differences(alike):
            other, short = "seeds of different code or packages, which are not averaged", False
            continue
        chosen = alike[:seeds]
        if best is None or len(chosen) > len(best.runs):
            best = Cell(target, tuple(chosen), source)
    return best or Cell(target, other=other, short=short)


def _why_not(run: SeedRun, settings: dict) -> str:
    steps, wanted = run.run["settings"].get("training_steps"), settings.get("training_steps")
    if steps != wanted and None not in (steps, wanted):
        return SHORTER if steps < wanted else "longer than the paper's runs"
    return "made under other settings than today's"


@dataclass(frozen=True)
class Missing:
    """Runs that a claim still needs: how many, the command that makes them, and how long they take by what others took.

    trained: how many the command trains. It knows no recorded runs, and may be about more than the claim.
    """

    runs: int
    command: str
    trained: int
    seconds: float | None = None
    seconds_trained: float | None = None

    @property
    def to_come(self) -> str:
        time = f"about {duration(self.seconds)} of one process" if self.seconds else "not measured yet"
        return f"{counted(self.runs, 'run')} to come, {time}"

    @property
    def words(self) -> str:
        if self.trained == self.runs:
            return self.to_come
        time = f", about {duration(self.seconds_trained)}" if self.seconds_trained else ""
        return f"{self.to_come}; the command trains {counted(self.trained, 'run')}{time}: all of its pages, recorded runs again"


def missing_of(
    cells: Sequence[Cell], seeds: Callable[[Cell], int], command: str, about: Sequence[Cell] | None = None
) -> Missing | None:
    """None where every cell has its seeds. about: the cells that the command trains, where they are others."""
    lacking = sum(max(0, seeds(cell) - len(cell.runs)) for cell in cells)
    if not lacking:
        return None
    took = [run.run["cost"]["seconds"] for cell in cells for run in cell.runs]
    each = sum(took) / len(took) if took else None
    trained, seconds = 0, 0.0
    for cell in cells if about is None else about:
        own = [run.run["cost"]["seconds"] for run in cell.runs]
        count = max(0, seeds(cell) - (len(own) if cell.source == "own" else 0))
        trained += count
        seconds += count * (sum(own) / len(own) if own else each or 0)
    return Missing(lacking, command, trained, *((lacking * each, seconds) if each else ()))


def codes_of(cells: Sequence[Cell]) -> dict[str, int]:
    """Fingerprint of the code -> how many runs it made."""
    counts: dict[str, int] = {}
    for cell in cells:
        for run in cell.runs:
            code = str(run.run["provenance"].get("code_sha256"))[:12]
            counts[code] = counts.get(code, 0) + 1
    return counts


@dataclass(frozen=True)
class Decision:
    """What became of a claim. `key` is a verdict's, or `too_few` of the runs are there."""

    key: str
    sentence: str
    missing: Missing | None = None
    interval: tuple[float, float] | None = None
    links: tuple[tuple[str, str], ...] = field(default=())  # (page, words)

    @property
    def word(self) -> str:
        return WORDS[self.key][0]

    @property
    def colour(self) -> str:
        return WORDS[self.key][1]


def waiting(cells: Sequence[Cell]) -> str:
    """The state of what still lacks runs: in progress with the first of the paper's length, else too short with any shorter one."""
    if any(cell.runs for cell in cells):
        return "in_progress"
    return "too_short" if any(cell.short for cell in cells) else "nothing_yet"


def by_interval(low: float, high: float, seeds: int) -> str:
    """A claim that something is above 0: its interval on one side of it, with enough seeds, decides."""
    if seeds < MIN_SEEDS:
        return "undecided"
    return "replicated" if low > ROUNDING else "not_replicated" if high < -ROUNDING else "undecided"


def overall(decisions: Sequence[Decision]) -> str:
    """The state of a page by those of its claims: one that fails decides, then one that is open."""
    keys = [d.key for d in decisions if d.key != "not_testable"]
    for key in ("not_replicated", "too_short", "nothing_yet", "in_progress", "undecided"):
        if key in keys:
            return key
    return "replicated" if keys else "not_testable"


WAITING = ("in_progress", "too_short", "nothing_yet")  # for runs
DECIDED = ("replicated", "not_replicated")


def decided(decisions: Sequence[Decision]) -> str:
    """`1 of 3 claims decided: not replicated`; empty where none is."""
    words = [d.word.lower() for d in decisions if d.key in DECIDED]
    if not words:
        return ""
    each = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    how = ", ".join(each) if len(each) > 1 else words[0]
    return f"{len(words)} of {counted(len(decisions), 'claim')} decided: {how}"


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def said(head: str, claims: Sequence[tuple[PaperClaim | Comparison, Decision]]) -> str:
    """What the terminal says of a page: a line for each of its claims, in the page's words."""
    return "\n".join([head, *(f"  {decision.word.lower()}: {claim.statement}" for claim, decision in claims)])


def command(kind: str, example: str, about: str, render: Callable[[str, Path, Path | None], object]) -> None:
    """The command line of a page about many runs. kind: what it is of, and its module's name begins with."""
    parser = argparse.ArgumentParser(prog=f"python -m reports.{kind}_page", description=about)
    parser.add_argument(kind, help=f"for example {example}")
    parser.add_argument("--out", type=Path, help=f"default: reports/{kind.upper()}.html")
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    render(getattr(args, kind).removeprefix("reports/").removesuffix(".html"), args.results, args.out)
