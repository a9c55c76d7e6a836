"""Renders the page of one target: `python -m reports.render dqn_pong [--source own|recorded] [--out FILE] [--results
results]`.

One file holds every size there are results for, own and recorded, and opens on one's own runs of the size that was asked
for. Nothing is trained here.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from common import papers
from common.errors import UserError, run_main
from common.evaluation.verdict import state
from common.say import say, say_aside
from reports import claims_page, game_page
from reports.film_values import excerpt_of, shown_values, size
from reports.runs import SeedRun, find_runs, sizes_of_own_settings
from reports.section import own_settings, resolved_for, section_data, section_of
from reports.target import PageTarget, load_target, roots
from reports.words import authors, breakable, capital, duration, ordinal, sentence, shown, size_name

HERE = Path(__file__).resolve().parent
MAX_VIDEO = 450_000  # characters on the page
MAX_PAGE = 1_000_000
MAX_CHARTS = 650_000  # bytes of all curves
CODE = {".py", ".j2", ".css", ".js"}
EXCERPTS = (45, 20, 8)  # seconds; the longest that fits
PREVIEW = (
    1  # seconds since 1970, the date of pages that nobody asked for: older than whatever a page is made from
)


def expectations(target: PageTarget) -> list[tuple[str, str]]:
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


@cache  # a compiled template serves all pages of a process
def environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals["asset"] = lambda name: Markup((HERE / name).read_text(encoding="utf-8"))
    env.filters |= {
        "script_json": script_json,
        "sentence": sentence,
        "ordinal": ordinal,
        "capital": capital,
        "breakable": breakable,
        "authors": authors,
    }
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


def video_source(content: bytes) -> Markup:
    return Markup("data:video/mp4;base64," + base64.b64encode(content).decode())


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
        video["src"] = video_source(content)
        video["length"] = duration(total)
        video["cut"] = f"its first {duration(seconds)} of {duration(total)}" if seconds < total else None
        video["note"], changed = None, True
        room -= len(video["src"]) + 400
        if said:
            video["film"] = shown_values(excerpt_of(video["said"], seconds))
            room -= beside
    return html() if changed else text


def build(
    target: PageTarget,
    source: str,
    results: Path,
    watching: bool = False,
    live: int | None = None,
    only: str | None = None,
    asked: str | None = None,
    read: tuple | None = None,
) -> tuple[str, dict]:
    """The page's text and its opening section (for an empty page: a dict with only `verdict`, `source`, `size`).

    `watching`: opens on a size that is not finished. `live`: the page loads itself again every so many seconds. `only`: the
    page of a size with settings of one's own, which is on no other. `asked`: the size of one's own that it opens on. `read`:
    what `find_runs` gave, where it was asked already.
    """
    found, left_out = read or find_runs(target, results, only)
    sections = thinned(target, found)
    sections.sort(key=lambda s: (s["source"], s["size"]) != ("own", asked))
    if watching:
        sections.sort(key=lambda s: not s.get("progress"))
    if source == "recorded":
        candidates = [s for s in sections if s["source"] == "recorded" and s["finished"]]
        if not candidates:
            raise UserError(
                f"no recorded run of {target.name} in {roots(target, results)['recorded']}; leave out source=recorded to train "
                f"it (snakemake reports/{target.name}.html), or record a finished run with python -m common.runs.record RUN_DIR"
            )
        sections.remove(candidates[0])
        sections.insert(0, candidates[0])
        check(target, sections[0])
    if sections:
        sections[0]["notes"] += left_out
        head = sections[0]
    else:
        nothing = state("nothing_yet", "Nothing has been run yet for this page.")
        head = {"verdict": nothing, "source": source, "size": "none"}
    claims = bool(target.task.claims)
    template = environment().get_template("claims_page.html.j2" if claims else "game_page.html.j2")

    def html() -> str:
        data = {"target": target.name, "sections": [section_data(target, s) for s in sections]}
        if not claims:
            data = {"target": target.name, "x": "frames" if target.task.kind == "atari" else "steps", **data}
        return template.render(
            target=target,
            paper=target.paper,
            task=target.task,
            citation=target.paper.citation,
            sections=sections,
            head=head,
            page=f"reports/{target.name}.html",
            own_settings=sections[0]["own_settings"] if only and sections else None,
            own_pages=[] if only else own_pages(target, results),
            budgets=expectations(target) if not sections else [],
            live=live,
            data=data,
        )

    return (html() if claims else embed_videos(sections, html)), head


def own_pages(target: PageTarget, results: Path) -> list[tuple[str, str]]:
    """(file, settings in words) of the pages of runs with settings of one's own."""
    found = []
    for own_size in sizes_of_own_settings(target, results):
        with contextlib.suppress(UserError):  # its own page says what is wrong
            (source, _, runs), *_ = find_runs(target, results, own_size)[0] or [("", "", [])]
            resolved, _ = resolved_for(target, own_size, runs)
            if runs:
                words = own_settings(target, source, own_size, runs, resolved)
                found.append((f"{target.name}-{own_size}.html", f"{papers.budget_of(own_size)}, {words}"))
    return found


def thinned(target: PageTarget, found: Sequence[tuple[str, str, list[SeedRun]]]) -> list[dict]:
    """The sections, with curves thinned until all of them fit on the page."""
    crowd = 1
    while True:
        sections = [section_of(target, *item, crowd) for item in found]
        charts = [chart for section in sections for chart in section.get("charts", ())]
        if crowd >= 32 or sum(len(script_json(c.data)) + len(c.svg) for c in charts) < MAX_CHARTS:
            return sections
        crowd *= 2


def check(target: PageTarget, section: dict) -> None:
    """Plays or measures again what a recorded section shows."""
    if not target.task.claims:
        section["replay"] = game_page.replay_check(section)
    elif not section["differences"]:
        section["check"] = claims_page.measured_again(target, section["finished"])


def _state(files: Iterable[Path]) -> str:
    """Changes with any of the files."""
    stats = [(path, path.stat()) for path in sorted(files)]
    text = "".join(f"{path} {stat.st_size} {stat.st_mtime_ns}\n" for path, stat in stats)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _code() -> str:
    """The state of the code that makes pages."""
    folders = (HERE, HERE.parent / "common")
    return _state(p for folder in folders for p in folder.rglob("*") if p.suffix in CODE)


def made_from(target: PageTarget, results: Path) -> str:
    """What stands at the end of a preview: the state of the runs, of the paper's files and of the code; "" without runs."""
    runs = [p for root in roots(target, results).values() for p in root.glob("*/seed*/*")]
    if not runs:
        return ""
    paper = target.paper
    of_paper = {*paper.tables(), *(p for p in paper.folder.iterdir() if p.is_file())}
    digest = hashlib.sha256(f"{_code()} {_state([*of_paper, *runs])}".encode()).hexdigest()
    return f"<!-- made from {digest} -->\n"


def make_preview(
    page: Path,
    target: PageTarget,
    results: Path,
    only: str | None = None,
    read: tuple | None = None,
    mark: str | None = None,
) -> bool:
    """Makes a page that is missing, or was made here before and is outdated. True if there is a page then.

    read: what `find_runs` gave, and mark: what `made_from` gave before that; without them the page is made anew. One that
    tells of unfinished runs is outdated with each second.
    """
    if page.exists() and page.stat().st_mtime != PREVIEW:
        return True
    finished = read and all(run.state == "finished" for _, _, runs in read[0] for run in runs)
    if finished and mark and page.exists() and page.read_bytes().endswith(mark.encode()):
        return True
    try:
        text, _ = build(target, "own", results, only=only, read=read)
    except UserError as error:
        say(f"{page}: not made: {error}")
        return page.exists()
    write(page, text + (mark or ""))
    os.utime(page, (PREVIEW, PREVIEW))
    return True


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


def parse_page(name: str) -> tuple[PageTarget, str | None]:
    """The target of a page's name, and the size where it is the page of runs with settings of one's own."""
    found = re.fullmatch(f"(?P<target>.+?)-(?P<size>{papers.OVERRIDDEN_SIZE})", name)
    return (load_target(found["target"]), found["size"]) if found else (load_target(name), None)


def newest_of_own(target: PageTarget, results: Path) -> str | None:
    """The size of one's own that was finished last; None where there is none."""
    runs = roots(target, results)["own"].glob("*/seed*/run.json")
    dated = [
        (path.stat().st_mtime, path.parts[-3]) for path in runs if not papers.is_overridden(path.parts[-3])
    ]
    return max(dated)[1] if dated else None


def render(
    name: str,
    source: str = "own",
    out: Path | None = None,
    results: Path = Path("results"),
    asked: str | None = None,
) -> Path:
    """Writes the page `name` (dqn_pong, or dqn_pong-hour-set-1a2b3c4d) and returns its path.

    It opens on one's own runs of the size `asked`, of the newest if there is none; what is longer or recorded stands beside.
    Pages of settings of one's own that a target's page leads to are made with it where they are missing.
    UserError for an unknown target, damaged results, or nothing recorded.
    """
    target, only = parse_page(name)
    asked = asked or newest_of_own(target, results)
    text, head = build(target, source, results, only=only, asked=asked)
    out = out or Path("reports") / f"{name}.html"
    write(out, text)
    for row in head.get("progress") or ():
        if row["evaluation_missing"]:
            how = f"; evaluate it: {row['command']}" if row["command"] else ""
            say_aside(f"warning: {name}: seed {row['seed']} is not among the scores: {row['state']}{how}")
    for file, _ in [] if only else own_pages(target, results):
        make_preview(out.with_name(file), target, results, parse_page(file.removesuffix(".html"))[1])
    say(
        f"{name}, {head['source']}, {size_name(head['size'])}: {head['verdict'].word.lower()}. {head['verdict'].sentence}"
    )
    say(f"page: {out}")
    return out


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reports.render", description="Render the page of one target from its results."
    )
    parser.add_argument("target", help="for example dqn_pong (or reports/dqn_pong.html)")
    parser.add_argument("--source", choices=("own", "recorded"), default="own")
    parser.add_argument(
        "--asked", metavar="SIZE", help="open on your own runs of this size; default: the newest"
    )
    parser.add_argument("--out", type=Path, help="default: reports/TARGET.html")
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args(argv)
    name = args.target.removeprefix("reports/").removesuffix(".html")
    render(name, args.source, args.out, args.results, args.asked)


if __name__ == "__main__":
    run_main(main)
