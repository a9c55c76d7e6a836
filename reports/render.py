"""Renders the page of one target: `python -m reports.render dqn_pong [--source own|recorded] [--out FILE] [--results
results]`.

One file holds every size there are results for, own and recorded, and opens on the longest finished one. Nothing is
trained here.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from common import papers
from common.errors import UserError, run_main
from common.verdict import WORDS, state
from reports.data import find_runs
from reports.section import replay_check, section_data, section_of
from reports.tables import shown
from reports.target import Target, load_target

HERE = Path(__file__).resolve().parent
MAX_VIDEO = 700_000  # bytes; a longer one stays in the results folder
MAX_PAGE = 1_000_000


def expectations(target: Target) -> list[tuple[str, str]]:
    """(budget, what to expect) of this task, for a page without results."""
    found = []
    for name in target.paper.budgets:
        expect = papers.resolve(target.paper, target.variant_name, target.task.name, name).expect
        found.append((name, expect if isinstance(expect, str) else f"{expect['cpu']}; {expect['cuda']}"))
    return found


def script_json(data: object) -> Markup:
    """JSON that cannot leave its script element, and holds no NaN."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for char, code in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(char, code)
    return Markup(text)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return capital(text) + ("" if text.rstrip().endswith((".", "!", "?")) else ".")


def authors(names: str) -> str:
    """Up to four names; of more, the first and how many others. The BibTeX entry has them all."""
    people = [name for name in names.replace(" and ", ", ").split(", ") if name]
    return names if len(people) <= 4 else f"{people[0]} and {len(people) - 1} others"


def environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals["asset"] = lambda name: Markup((HERE / name).read_text(encoding="utf-8"))
    env.filters |= {"script_json": script_json, "sentence": sentence, "capital": capital, "authors": authors}
    return env


def embed_videos(sections: list[dict], html: Callable[[], str]) -> str:
    """Renders, then puts in videos in order while the page stays under MAX_PAGE bytes; the others are named with
    their folder.
    """
    for section in sections:
        if section["video_run"]:
            section["video_note"] = shown(section["video_run"].video)
    text = html()
    room = MAX_PAGE - len(text.encode())
    changed = False
    for section in sections:
        run = section["video_run"]
        if not run:
            continue
        size = run.video.stat().st_size
        encoded = 4 * math.ceil(size / 3) + 400
        if 0 < size <= MAX_VIDEO and encoded <= room:
            section["video"] = Markup("data:video/mp4;base64," + base64.b64encode(run.video.read_bytes()).decode())
            section["video_note"], changed = None, True
            room -= encoded
    return html() if changed else text


def build(target: Target, source: str, results: Path) -> tuple[str, dict]:
    """The page's text and its opening section (for an empty page: a dict with only `verdict`, `source`, `size`)."""
    folder = target.paper.folder
    recorded_root = papers.recorded_dir(folder.name, target.variant_name, target.task.name, root=folder.parent)
    own_root = results / papers.agent_name(target.paper.name, target.variant_name) / target.task.name
    roots = {"own": own_root, "recorded": Path(shown(recorded_root))}
    names = (target.paper.name, target.variant_name, target.task.name)
    sections = [
        section_of(target, kind, size, runs)
        for kind, root in roots.items()
        for size, runs in find_runs(root, kind, *names).items()
    ]
    # Longest first; at equal length a finished one, then one's own.
    sections.sort(key=lambda s: (not s["finished"], -s["agent_steps"], s["source"] != source, s["size"]))
    candidates = [s for s in sections if source == "own" or s["source"] == "recorded"]
    if source == "recorded":
        candidates = [s for s in candidates if s["finished"]]
        if not candidates:
            raise UserError(
                f"no recorded run of {target.name} in {roots['recorded']}; leave out source=recorded to train it "
                f"(snakemake reports/{target.name}.html), or record a finished run with python -m common.record RUN_DIR"
            )
        candidates[0]["replay"] = replay_check(candidates[0])
    opening = candidates[0] if candidates else None
    if opening:
        sections.remove(opening)
        sections.insert(0, opening)
    head = opening or {
        "verdict": state("nothing_yet", "Nothing has been run yet for this page."),
        "source": source,
        "size": "none",
    }
    citation = target.paper.citation
    env = environment()
    template = env.get_template("template.html.j2")

    def html() -> str:
        return template.render(
            target=target,
            paper=target.paper,
            task=target.task,
            citation=citation,
            sections=sections,
            head=head,
            words=WORDS,
            page=f"reports/{target.name}.html",
            budgets=expectations(target) if not sections else [],
            data={
                "target": target.name,
                "x": "frames" if target.task.kind == "atari" else "steps",
                "sections": [section_data(s) for s in sections],
            },
        )

    return embed_videos(sections, html), head


def write(path: Path, text: str) -> None:
    """By a temporary name and a rename: a page is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def render(name: str, source: str = "own", out: Path | None = None, results: Path = Path("results")) -> Path:
    """Writes the page of target `name` and returns its path.

    UserError for an unknown target, damaged results, or nothing recorded.
    """
    text, head = build(load_target(name), source, results)
    out = out or Path("reports") / f"{name}.html"
    write(out, text)
    print(
        f"{out}: {head['verdict'].word.lower()} ({head['source']}, {head['size']}). {head['verdict'].sentence}",
        flush=True,
    )
    return out


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reports.render", description="Render the page of one target from its results."
    )
    parser.add_argument("target", help="for example dqn_pong (or reports/dqn_pong.html)")
    parser.add_argument("--source", choices=("own", "recorded"), default="own")
    parser.add_argument("--out", type=Path, help="default: reports/TARGET.html")
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args(argv)
    render(args.target.removeprefix("reports/").removesuffix(".html"), args.source, args.out, args.results)


if __name__ == "__main__":
    run_main(main)
