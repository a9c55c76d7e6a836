"""Lists what can be asked for: `./run targets` in short, `./run targets pong` each page whose name or title has "pong" in it.

`./run targets --names` prints the pages alone, one a line, for the completion of shells.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from common import papers
from common.configuration import PAGE, SUFFIX
from common.errors import UserError, did_you_mean, run_main
from common.say import say, say_aside
from common.workflow import Flow


def page_of(name: str) -> str:
    return f"{PAGE}{name}{SUFFIX}"


def summary(flow: Flow) -> list[str]:
    """A line for each paper and variant: how many pages it has, and some of them."""
    lines, loaded, targets = [], flow.papers, flow.targets
    for agent in dict.fromkeys(target.agent for target in targets.values()):
        tasks = [target.task for target in targets.values() if target.agent == agent]
        paper, _, variant = agent.partition("-")
        title = loaded[paper].short + (f", {loaded[paper].variants[variant].title}" if variant else "")
        some = ", ".join(tasks[:4]) + (f" and {len(tasks) - 4} more" if len(tasks) > 4 else "")
        lines.append(f"{PAGE}{agent}_TASK{SUFFIX}  {title}; TASK: {some}")
    wide = "pages of a whole paper, of a task or of a printed table, as reports/dqn.html"
    return [
        *lines,
        f"{len(targets)} pages of one task, {len(flow.summaries.names)} {wide}; those that fit: ./run targets PATTERN",
    ]


def matching(flow: Flow, pattern: str) -> list[str]:
    """A line for each page whose name or titles hold the pattern. UserError where there is none."""
    found, wanted = [], pattern.lower().removeprefix(PAGE).removesuffix(SUFFIX)
    for name in sorted(flow.summaries.names):
        if wanted in name.lower():
            found.append((page_of(name), "all of it"))
    for target in flow.targets.values():
        paper = flow.papers[target.paper]
        variant, task = papers.find_task(paper, target.variant, target.task)
        words = f"{paper.short}, {task.title}" + (f", {variant.title}" if variant.name else "")
        if wanted in target.name.lower() or wanted in words.lower():
            found.append((page_of(target.name), words))
    if not found:
        papers.raise_if_broken(wanted, flow.papers, flow.broken)
        raise UserError(
            f"no page fits {pattern!r}{did_you_mean(wanted, list(flow.targets))}; ./run targets sums up what there is"
        )
    width = max(len(page) for page, _ in found)
    return [f"{page:{width}}  {words}" for page, words in found]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="./run targets", description="List the pages that can be asked for."
    )
    parser.add_argument("pattern", nargs="?", help="a part of a name or title, as pong or dqn_")
    parser.add_argument("--names", action="store_true", help="the pages alone, for a shell's completion")
    arguments = parser.parse_args(argv)
    flow = Flow({})
    if arguments.names:
        lines = [page_of(name) for name in (*flow.targets, *sorted(flow.summaries.names), "index")]
    elif arguments.pattern:
        lines = matching(flow, arguments.pattern)
    else:
        lines = summary(flow)
    for name, problem in flow.broken.items():
        say_aside(f"warning: {problem}; {papers.left_out(name)}")
    say("\n".join(lines))


if __name__ == "__main__":
    run_main(main)
