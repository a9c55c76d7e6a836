"""One size of a page: what all kinds of page say of it, and what its own kind adds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from common import papers
from common.errors import UserError
from common.evaluation.verdict import Judged, Verdict, of_own_settings, seeds_in_words
from reports import claims_page, game_page
from reports.rows import constant_rows, deviation_rows, provenance_rows
from reports.runs import SeedRun, differences, finished_of
from reports.scores import judge
from reports.target import PageTarget
from reports.words import as_good_as_equal, plain_value, size_name

# Settings that name a run rather than change what is learned.
IDENTITY = {"seed", "device", "task", "budget", "variant", "results"}


def resolved_for(target: PageTarget, size: str, runs: Sequence[SeedRun]):
    """The settings of this size as the paper's file has them now, with the run's own differences taken as given on
    the command line.

    Returns (resolved or None, notes). A recorded run may carry settings that today's code no longer has.
    """
    variant, task = target.variant_name, target.task.name
    try:
        plain = papers.resolve(target.paper, variant, task, size)
    except UserError as error:
        return None, [f"The settings of this size cannot be derived from the paper's file: {error}"]
    trained = [run for run in runs if run.run]
    if not trained:
        return plain, []
    settings = trained[0].run["settings"]
    unknown = sorted(set(settings) - set(plain.settings) - IDENTITY)
    notes = [
        f"This run has a setting that the code no longer has: {name} = {settings[name]}" for name in unknown
    ]
    overrides = {
        name: value
        for name, value in settings.items()
        if name in plain.settings
        and name not in IDENTITY
        and not as_good_as_equal(value, plain.settings[name])
    }
    if not overrides:
        return plain, notes
    try:
        return papers.resolve(target.paper, variant, task, size, overrides), notes
    except UserError as error:
        return plain, [*notes, f"This run differs from what this size resolves to now: {error}"]


def superseded_notes(runs: Sequence[SeedRun]) -> list[str]:
    """Of recorded runs that today's rules would make otherwise."""
    reasons = dict.fromkeys(run.superseded for run in runs if run.superseded)
    return [f"Made under earlier rules: {reason}. New runs take their place." for reason in reasons]


def own_settings(target: PageTarget, source: str, size: str, runs: Sequence[SeedRun], resolved) -> str | None:
    """The settings that a user gave, in words: `learning rate 0.0001 instead of 0.00025`; None where there are none.

    A run of one's own that lies where the paper's runs lie and has other settings counts as well.
    """
    given = next((run.run["overrides"] for run in runs if run.run and run.run.get("overrides")), {})
    if resolved is not None and (papers.is_overridden(size) or source == "own"):
        fitted = papers.fitted_to_machine(target.paper, target.task)
        set_here = [
            n for n, origin in resolved.sources.items() if origin == "command line" and n not in fitted
        ]
        given = {name: resolved.settings[name] for name in set_here} | given
    if not given:
        return size if papers.is_overridden(size) else None
    plain = papers.resolve(
        target.paper, target.variant_name, target.task.name, papers.budget_of(size)
    ).settings
    parts = [
        f"{name.replace('_', ' ')} {plain_value(value)}"
        + (f" instead of {plain_value(plain[name])}" if name in plain else "")
        for name, value in sorted(given.items())
    ]
    return ", ".join(parts)


def verdict_on(
    target: PageTarget, runs: Sequence[SeedRun], settings: str | None
) -> tuple[Verdict, list[Judged]]:
    """`judge`, and no verdict about the paper where the runs have settings of a user's own."""
    verdict, judged = judge(target, runs)
    return (of_own_settings(verdict, settings) if settings and finished_of(runs) else verdict), judged


def one_word(text: object, most: int = 40) -> str:
    """Of a file that may come from anywhere, for a line of a comment that is to stay one."""
    return "".join(str(text).split())[:most]


def repeat_command(
    target: PageTarget, source: str, size: str, runs: Sequence[SeedRun], own_settings: bool = False
) -> list[str]:
    """The commands that repeat this section from nothing, and what they leave out. `own_settings`: some were given by the
    user.
    """
    page, base = f"reports/{target.name}.html", papers.budget_of(size)
    how = f"frames={base[7:]}" if base.startswith("frames-") else f"budget={base}"
    given = next((run.run["overrides"] for run in runs if run.run and run.run.get("overrides")), None)
    if given:
        how += f" settings={shlex.quote(papers.as_text(given))}"
    seeds = max((run.seed for run in runs), default=1)
    commits = {run.run["provenance"].get("commit") for run in runs if run.run} - {None, ""}
    changes = {run.run["provenance"].get("diff_sha256") for run in runs if run.run} - {None, ""}
    changed = sorted(one_word(digest, 16) for digest in changes)
    lines = [f"git checkout {shlex.quote(commits.pop())}"] if len(commits) == 1 else []
    if commits:
        lines.append(
            f"# The seeds were trained at different commits: {', '.join(sorted(map(one_word, commits)))}"
        )
    if changed:
        lines.append(
            f"# It was changed and not committed (SHA-256 of the changes: {', '.join(changed)}), so this is near, not exact."
        )
    if own_settings and not given:
        lines.append(
            "# Settings were given on the command line: use the command of each run, below, instead."
        )
    if source == "recorded":
        lines = [f"./run snakemake {page} --config source=recorded", "", "# and to train it again:", *lines]
    return [*lines, f"./run snakemake {page} --config {how} seeds={seeds}"]


def section_of(target: PageTarget, source: str, size: str, runs: list[SeedRun], crowd: int = 1) -> dict:
    """Everything the template shows about one size. `crowd`: see `series_of`."""
    finished = finished_of(runs)
    waiting = len(runs) - len(finished)
    trained = [run for run in runs if run.run]
    resolved, resolve_notes = resolved_for(target, size, runs)
    settings = own_settings(target, source, size, runs, resolved)
    verdict, judged = verdict_on(target, runs, settings)
    more = f"{waiting} more {'seeds are' if waiting > 1 else 'seed is'} not finished, so not in this verdict."
    ident = f"{source}-{size}"
    if target.task.claims:
        details = claims_page.details(target, runs, judged)
    else:
        details = game_page.details(target, ident, runs, verdict, resolved, crowd)
    device = next((run.run["provenance"].get("device", "cpu") for run in trained), "cpu")
    return {
        **details,
        "own_settings": settings,
        "id": ident,
        "source": source,
        "size": size,
        "size_name": size_name(size),
        "label": f"{size_name(size)}, {'recorded' if source == 'recorded' else 'your own'}",
        "verdict": verdict,
        "notes": [
            *superseded_notes(runs),
            *verdict.notes,
            *([more] if waiting and finished else []),
            *details["notes"],
        ],
        "finished": finished,
        "seeds": seeds_in_words(len(finished or runs)),
        "expect": papers.expectation(resolved.expect, str(device)) if resolved else None,
        "differences": differences(finished) if verdict.key == "not_averaged" else [],
        "constants": constant_rows(target, resolved, runs),
        "deviations": deviation_rows(target, resolved, resolve_notes),
        "provenance": provenance_rows(trained) if trained else [],
        "commands": [
            run.run["provenance"].get("command") for run in trained if run.run["provenance"].get("command")
        ],
        "repeat": repeat_command(target, source, size, runs, bool(settings)),
    }


def section_data(target: PageTarget, section: dict) -> dict:
    """The machine-readable part of one section."""
    page = claims_page if target.task.claims else game_page
    return {
        "id": section["id"],
        "source": section["source"],
        "size": section["size"],
        "verdict": section["verdict"].key,
        **page.data(section),
    }
