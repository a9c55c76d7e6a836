"""Lists runs: `./run status [--results FOLDER]`: which wait, train (rate, share, hours left), are finished, failed.

It reads files only, so it works as well on a folder of results copied from another machine. A run that says it trains and has
said nothing for a quarter of an hour was killed, or goes on where the folder came from.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, run_main
from common.files import folder_named
from common.say import say

ASKED = ".asked"  # in the folder of results: the runs that workflows were asked for, one a line
FAILED = ".failed"  # there too: {run: why}, of the last workflow's jobs that failed
SILENT = datetime.timedelta(minutes=15)
STATES = (
    "failed",
    "damaged",
    "silent",
    "training",
    "stopped",
    "waiting",
    "finished",
)  # in the order they are listed in


@dataclass(frozen=True)
class State:
    run: str  # agent/task/size/seedN
    state: str  # of STATES
    words: str


def asked_in(results: Path) -> set[str]:
    try:
        return set((results / ASKED).read_text(encoding="utf-8").split("\n")) - {""}
    except OSError:
        return set()


def failed_in(results: Path) -> dict[str, str]:
    return _read(results / FAILED)


def states_in(results: Path, now: datetime.datetime) -> list[State]:
    """Of every run that there is or that was asked for."""
    there = {
        "/".join(path.parts[-4:])
        for path in results.glob("*/*/*/seed*")
        if path.name.removeprefix("seed").isdigit() and path.is_dir()
    }
    failed = failed_in(results)
    found = [state_of(results / run, run, now, failed.get(run)) for run in sorted(there | asked_in(results))]
    return sorted(found, key=lambda state: (STATES.index(state.state), state.run))


def state_of(folder: Path, run: str, now: datetime.datetime, failed: str | None = None) -> State:
    """failed: why its last job failed, as the workflow saw it."""
    if finished := _read(folder / "run.json"):
        if failed and not _evaluated(folder):
            return State(run, "failed", f"trained; its evaluation: {failed}")
        minutes = finished.get("cost", {}).get("seconds", 0) / 60
        left = "" if _evaluated(folder) else "; not evaluated yet"
        return State(run, "finished", f"{minutes:,.0f} minutes{left}")
    status = _read(folder / "checkpoint" / "status.json")
    if failed and status.get("state") not in ("training", "evaluating"):
        return State(run, "failed", failed)
    if (folder / "run.json").exists() and status.get("state") not in ("training", "evaluating"):
        return State(run, "damaged", f"{folder / 'run.json'} cannot be read")
    if not status:
        begun = (folder / "checkpoint" / "live").is_dir()
        return State(run, "waiting", "begun, and says nothing yet" if begun else "")
    steps, length, rate = (
        status.get(key) or 0 for key in ("agent_steps", "training_steps", "steps_per_second")
    )
    share = f"{steps / length:.0%} of {length:,} agent steps" if length else ""
    if status.get("state") in ("failed", "stopped"):
        words = ": ".join(part for part in (status.get("message", ""), share) if part)
        return State(run, status["state"], words)
    try:
        silence = now - datetime.datetime.fromisoformat(status["updated"])
    except (KeyError, TypeError, ValueError):
        silence = datetime.timedelta(0)
    if silence > SILENT:
        since = f"no word since {status['updated']}: killed, or it goes on elsewhere"
        return State(run, "silent", f"{share}, {since}")
    left = f", {(length - steps) / rate / 3600:.1f} hours left" if rate else ""
    doing = "evaluates, " if status.get("state") == "evaluating" else ""
    return State(run, "training", f"{doing}{rate:,.0f} steps/s, {share}{left}")


def _evaluated(folder: Path) -> bool:
    return (folder / "evaluation.json").exists() or (folder / "measures.json").exists()


def _read(path: Path) -> dict:
    """{} for a file that is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def table(states: Sequence[State]) -> list[str]:
    if not states:
        return ["no runs"]
    counts = Counter(state.state for state in states)
    kinds = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    width = max(len(state.run) for state in states)
    rows = [f"{state.state:9} {state.run:{width}}  {state.words}".rstrip() for state in states]
    return [f"{len(states)} run{'s' if len(states) > 1 else ''}: {kinds}", *rows]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="./run status", description="List runs and what they are doing.")
    parser.add_argument(
        "--results", default="results", help="a folder of results, also one copied from elsewhere"
    )
    folder = Path(folder_named(parser.parse_args(argv).results, "--results"))
    if not folder.is_dir():
        raise UserError(f"--results {folder}: there is no such folder; runs leave theirs in results")
    say("\n".join(table(states_in(folder, datetime.datetime.now(datetime.UTC)))))


if __name__ == "__main__":
    run_main(main)
