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
from common.evaluation.verdict import WORDS, state
from reports import laptop
from reports.data import find_runs, rank
from reports.outlook import excerpt_of, shown_outlook, size
from reports.section import replay_check, section_data, section_of
from reports.tables import duration, shown
from reports.target import Target, load_target, roots

HERE = Path(__file__).resolve().parent
MAX_VIDEO = 450_000  # characters on the page
MAX_PAGE = 1_000_000
MAX_CHARTS = 650_000  # bytes of all curves
EXCERPTS = (45, 20, 8)  # seconds; the longest that fits


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


def excerpt(path: Path, room: int) -> tuple[bytes, float, float] | None:
    """(video, its seconds, the whole's seconds): the first part of at most 45 seconds, shorter where `room` bytes ask
    for that. None where not even a few seconds fit, or the file is no video.
    """
    from common.evaluation.video import cut, frame_count, frame_rate

    try:
        fps = frame_rate(path)
        total = frame_count(path) / fps
        with tempfile.TemporaryDirectory() as folder:
            for seconds in EXCERPTS:
                if seconds != EXCERPTS[0] and seconds >= total:
                    continue
                part = Path(folder) / "part.mp4"
                frames = cut(path, part, seconds)
                if 4 * math.ceil(part.stat().st_size / 3) + 400 <= room:
                    return part.read_bytes(), frames / fps, total
    except (UserError, ZeroDivisionError):
        return None
    return None


def embed_videos(sections: list[dict], html: Callable[[], str]) -> str:
    """Renders, then puts in excerpts while the page stays under MAX_PAGE bytes: the median episode of every size
    first, then the best ones. What does not fit is named with its file.
    """
    videos = [video for section in sections for video in section["videos"]]
    for video in videos:
        video["note"] = shown(video["path"])
    text = html()
    room, changed = MAX_PAGE - len(text.encode()), False
    for video in sorted(videos, key=lambda video: video["kind"] != "median"):
        said = excerpt_of(video["said"], EXCERPTS[0])
        beside = size(said) if said else 0
        found = excerpt(video["path"], min(room - beside, MAX_VIDEO))
        if found is None:
            continue
        content, seconds, total = found
        total = max(total, video["whole"])
        video["src"] = Markup("data:video/mp4;base64," + base64.b64encode(content).decode())
        video["length"] = duration(total)
        video["cut"] = f"its first {duration(seconds)} of {duration(total)}" if seconds < total else None
        video["note"], changed = None, True
        room -= len(video["src"]) + 400
        if said:
            video["outlook"] = shown_outlook(excerpt_of(video["said"], seconds))
            room -= beside
    return html() if changed else text


def build(
    target: Target, source: str, results: Path, watching: bool = False, live: int | None = None
) -> tuple[str, dict]:
    """The page's text and its opening section (for an empty page: a dict with only `verdict`, `source`, `size`).

    `watching`: opens on a size that is not finished. `live`: the page loads itself again every so many seconds.
    """
    if target.task.claims:
        return laptop.build(target, source, results, environment(), expectations(target))
    places = roots(target, results)
    names = (target.paper.name, target.variant_name, target.task.name)
    found, left_out = [], []
    for kind, root in places.items():
        try:
            found += [(kind, size, runs) for size, runs in find_runs(root, kind, *names).items()]
        except UserError as problem:
            if kind == source or kind == "recorded":
                raise
            left_out.append(f"Your own results in {shown(root)} are left out: {problem}.")
    crowd = 1  # the more curves, the fewer points of each
    while True:
        sections = [section_of(target, *item, crowd) for item in found]
        charts = [chart for section in sections for chart in section["charts"]]
        if crowd >= 32 or sum(len(script_json(c.data())) + len(c.svg()) for c in charts) < MAX_CHARTS:
            break
        crowd *= 2
    sections.sort(key=lambda s: rank(bool(s["finished"]), s["agent_steps"], s["source"] == source, s["size"]))
    if watching:
        sections.sort(key=lambda s: not s["progress"])
    candidates = [s for s in sections if source == "own" or s["source"] == "recorded"]
    if source == "recorded":
        candidates = [s for s in candidates if s["finished"]]
        if not candidates:
            raise UserError(
                f"no recorded run of {target.name} in {places['recorded']}; leave out source=recorded to train it "
                f"(snakemake reports/{target.name}.html), or record a finished run with python -m common.runs.record RUN_DIR"
            )
        candidates[0]["replay"] = replay_check(candidates[0])
        candidates[0]["notes"] += left_out
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
            live=live,
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
