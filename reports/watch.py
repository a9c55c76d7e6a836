"""Renders the page of a running training every minute: `python -m reports.watch dqn_pong`.

It only reads what the training writes anyway, at the lowest priority, from this process or any other on the same disk.
Ends when all that was running has finished; Ctrl-C ends it at any time. The page is dated 1970, so that the workflow
makes it anew when the training is done.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, run_main
from common.say import say
from reports.render import PREVIEW, build, newest_of_own, write
from reports.target import PageTarget, load_target

EVERY = 60  # seconds


def look(target: PageTarget, results: Path, out: Path, every: int | None, asked: str | None = None) -> dict:
    """Renders once; returns the page's opening section. `every` None: a page that does not load itself again.

    It opens on what is running, else on one's own runs of the size `asked`, else on one's own newest.
    """
    asked = asked or newest_of_own(target, results)
    text, head = build(target, "own", results, watching=True, live=every, asked=asked)
    write(out, text)
    os.utime(out, (PREVIEW, PREVIEW))
    return head


def lines_of(head: dict) -> list[str]:
    """A line for each seed that is not finished."""
    lines = []
    for row in head.get("progress") or []:
        parts = [f"seed {row['seed']}: {row['state']}", row["steps"], row["rate"]]
        parts += [f"about {row['left']} left" if row["left"] else None]
        parts += [f"no sign of life for {row['quiet']}" if row["quiet"] else None, row["course"]]
        lines.append("; ".join(part for part in parts if part))
    return lines


def watch(target: PageTarget, results: Path, out: Path, every: int = EVERY, once: bool = False) -> None:
    """Renders until what was running has finished. Damaged or half-written results are said and tried again."""
    seen, size = False, None
    while True:
        began = time.monotonic()
        try:
            head = look(target, results, out, None if once else every)
            running = bool(head.get("running"))
            size = head["size"] if running else size
            now = time.strftime("%H:%M:%S")
            for line in lines_of(head) or [
                "nothing is running" if once else "waiting for a training to start"
            ]:
                say(f"{now} {target.name} {line}")
            if once or (seen and not running):
                head = look(target, results, out, None, size)
                say(f"{out}: {head['verdict'].sentence}")
                return
            seen = seen or running
        except UserError as error:
            if once:
                raise
            say(f"{error}; looking again in {every} s")
        time.sleep(max(1.0, every - (time.monotonic() - began)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reports.watch", description="Render the page of a running training every minute."
    )
    parser.add_argument("target", help="for example dqn_pong")
    parser.add_argument("--every", type=int, default=EVERY, help="seconds between two looks (default: 60)")
    parser.add_argument("--once", action="store_true", help="look once and end")
    parser.add_argument("--out", type=Path, help="default: reports/TARGET.html")
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args(argv)
    if args.every < 1:
        raise UserError(f"--every {args.every} is too short; at least 1 second")
    target = load_target(args.target.removeprefix("reports/").removesuffix(".html"))
    out = args.out or Path("reports") / f"{target.name}.html"
    with contextlib.suppress(OSError):
        os.nice(19)
    say(f"open {out} in a browser: it loads itself again every {args.every} s")
    with contextlib.suppress(KeyboardInterrupt):
        watch(target, args.results, out, args.every, args.once)


if __name__ == "__main__":
    run_main(main)
