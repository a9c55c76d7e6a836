"""The pages in a real browser: drawn, hovered, zoomed, played, filtered, on a phone, in the dark, with nothing from outside.

Skipped where there is no Chromium or no Playwright (`./run python -m pip install -r envs/dev.txt`); BROWSER_TESTS=required, as
continuous integration sets, makes that a failure.
"""

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from common import papers
from common.evaluation.verdict import WORDS
from common.evaluation.video import write_mp4
from reports import index
from reports.render import build, write
from reports.target import load_target
from tests.reports.pages import (
    PAPER_FRAMES,
    PAPER_YAML,
    PUBLISHED_CSV,
    TRAIN_PY,
    curve_rows,
    edit,
    film,
    target_of,
    write_progress,
    write_run,
    write_values,
)
from tests.reports.test_page import REFERENCE

CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None
)
LACKING = (
    "no Chromium was found (Debian, Ubuntu: apt install chromium)"
    if not CHROMIUM
    else "Playwright is not installed (./run python -m pip install -r envs/dev.txt)"
    if not importlib.util.find_spec("playwright")
    else None
)
pytestmark = pytest.mark.skipif(
    LACKING is not None and os.environ.get("BROWSER_TESTS") != "required",
    reason=f"tests in a real browser: {LACKING}",
)
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
PATIENCE = 120_000  # milliseconds, on a busy machine


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A page with every part there is, one with thirty seeds, one without results, and the index."""
    root = tmp_path_factory.mktemp("site")
    folder = root / "replications" / "toy"
    folder.mkdir(parents=True)
    files = {
        "paper.yaml": PAPER_YAML,
        "published.csv": PUBLISHED_CSV,
        "train.py": TRAIN_PY,
        "reference_curves.csv": REFERENCE,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    for seed in (1, 2, 3):
        run = write_run(
            root, size="paper", seed=seed, mean=17.5 + seed / 2, frames=PAPER_FRAMES, video=film(60, (42, 32))
        )
        steps = [line.split(",")[0] for line in (run / "curve.csv").read_text().splitlines()[1:]]
        clock = [f"{step},{60 * i * seed},1" for i, step in enumerate(steps, start=1)]
        (run / "timing.csv").write_text("\n".join(["agent_steps,seconds,steps_per_second", *clock]) + "\n")
        (run / "best.mp4").write_bytes(film(30, (42, 32)))
        edit(run / "evaluation.json", best_video={"episode": 1, "score": 20.0})
        if seed == 2:  # the median one
            (run / "episode.mp4").write_bytes(numbered(60))
            values = [[(i - 30) / 10, (30 - i) / 20, 0.25] for i in range(61)]
            write_values(run, {"median": (3, values, [i % 3 for i in range(61)])}, ("NOOP", "RIGHT", "LEFT"))
    write_run(root, size="hour", mean=-3.0)
    for seed in range(1, 31):
        write_run(root, task="montezuma", seed=seed, mean=float(seed), spread=3.0)
    before = Path.cwd()
    os.chdir(root)
    try:
        patch = pytest.MonkeyPatch()
        loaded = {"toy": papers.load_paper("toy", root=root / "replications")}
        patch.setattr(papers, "load_papers", lambda: loaded)
        index.render_index(root / "results", root / "reports" / "index.html")
        patch.undo()
        write(
            root / "reports" / "toy_cartpole.html",
            build(target_of(root, "cartpole"), "own", root / "results")[0],
        )
    finally:
        os.chdir(before)
    return root / "reports"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
            timeout=PATIENCE,
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser, site):
    """Opens a page; at the end, nothing was asked for outside it and nothing was complained about."""
    contexts, said, asked = [], [], []

    def open_page(name: str, **options):
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on(
            "console",
            lambda message: said.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{site}/{name}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", f"file://{site}/"))] == []


def legend(figure) -> dict[str, str]:
    rows = figure.locator(".u-legend .u-series").all()
    return {
        row.locator(".u-label").inner_text(): row.locator(".u-value").text_content()
        for row in rows
        if row.is_visible()
    }


def hover(page, figure, share: float) -> dict[str, str]:
    """The legend with the pointer at a share of the chart's width."""
    over = figure.locator(".u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    return legend(figure)


def frames(text: str) -> float:
    number, _, unit = text.partition(" ")
    return float(number) * {"k": 1e3, "M": 1e6, "": 1}[unit]


def numbered(frames: int) -> bytes:
    """A video whose pictures tell their numbers: six bits as white or black blocks, two rows of three."""
    pictures = np.zeros((frames, 32, 48, 3), np.uint8)
    for i in range(frames):
        for bit in range(6):
            if i >> bit & 1:
                row, column = divmod(bit, 3)
                pictures[i, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 255
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "film.mp4", iter(pictures))
        return (Path(folder) / "film.mp4").read_bytes()


NUMBER = """video => { const canvas = document.createElement("canvas"); [canvas.width, canvas.height] = [48, 32];
    const pen = canvas.getContext("2d", { willReadFrequently: true }); pen.drawImage(video, 0, 0, 48, 32);
    return [0, 1, 2, 3, 4, 5].reduce((n, bit) => n + (pen.getImageData(16 * (bit % 3) + 8, 16 * Math.floor(bit / 3) + 8, 1, 1).data[0] > 127) * 2 ** bit, 0); }"""


def test_action_values_follow_the_picture_that_is_shown(opened):
    page = opened("toy_pong.html")
    figure = page.locator('#own-paper figure[data-film="median"]')
    video = figure.locator("video")
    figure.scroll_into_view_if_needed()
    assert figure.locator(".now").inner_text() == "at 0.0 s"
    # while it plays: the number read from each picture, and the one whose values are shown
    pairs = video.evaluate(
        """(video, read) => new Promise((done) => { const number = eval(read), pairs = [];
        const next = () => { pairs.push([number(video), +video.closest("figure").dataset.picture]);
                             pairs.length < 25 ? video.requestVideoFrameCallback(next) : (video.pause(), done(pairs)); };
        video.requestVideoFrameCallback(next); video.play(); })""",
        NUMBER,
    )
    assert [shown for shown, _ in pairs] == [said for _, said in pairs]
    assert len({shown for shown, _ in pairs}) > 10
    # at a place that is jumped to, and in what a reader sees of it
    for second, number in ((2.5, 37), (0.7, 10)):
        video.evaluate("(v, t) => { v.currentTime = t; }", second)
        page.wait_for_function("([f, n]) => f.dataset.picture == n", arg=[figure.element_handle(), number])
        assert video.evaluate(NUMBER) == number
        values = [(number - 30) / 10, (30 - number) / 20, 0.25]
        rows = figure.locator("table.bars tbody tr")
        shown = [float(rows.nth(i).locator(".n").inner_text().replace("\u2212", "-")) for i in range(3)]
        assert shown == pytest.approx(values, abs=0.051)
        assert [i for i in range(3) if "played" in rows.nth(i).get_attribute("class").split()] == [number % 3]
        assert rows.nth(number % 3).locator("th").inner_text().endswith(", played")
        best = max(range(3), key=lambda i: values[i])
        assert [i for i in range(3) if "best" in rows.nth(i).get_attribute("class").split()] == [best]
        zero = rows.nth(0).locator(".zero").bounding_box()["x"]
        for i in range(3):  # a bar stands on the side of zero that its value has, and its length goes with it
            box, cell = (
                rows.nth(i).locator(".fill").bounding_box(),
                rows.nth(i).locator(".bar").bounding_box(),
            )
            assert box["width"] == pytest.approx(
                abs(values[i]) / 6 * cell["width"], abs=1.5
            )  # the axis: -3 to 3
            edge = box["x"] if values[i] >= 0 else box["x"] + box["width"]
            assert edge == pytest.approx(zero, abs=1.5)
        cursor = (
            figure.locator(".cursor").bounding_box()["x"] - figure.locator(".trace").first.bounding_box()["x"]
        )
        assert cursor == pytest.approx(
            figure.locator(".trace").first.bounding_box()["width"] * number / 59, abs=1.5
        )
    assert opened("toy_pong.html").locator("#own-hour figure[data-film]").count() == 0


def test_charts_are_drawn_and_hover_zoom_and_hours_work(opened):
    page = opened("toy_pong.html")
    data = json.loads(page.locator("#data").text_content())
    assert (
        page.locator("#own-paper figure[data-chart].drawn canvas").count()
        == len(data["sections"][0]["charts"])
        > 4
    )
    figure = page.locator("#own-paper figure[data-chart]").first
    painted = """canvas => { const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                 let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""
    assert figure.locator("canvas").evaluate(painted) > 5000

    series = {s["name"]: s for s in data["sections"][0]["charts"][0]["series"]}
    values = figure.locator(".u-legend .u-value")
    assert not any(value.is_visible() for value in values.all())
    shown = hover(page, figure, 0.5)
    assert values.first.is_visible()
    at = min(range(20), key=lambda i: abs(series["seed 2"]["x"][i] - frames(shown["frames"])))
    assert frames(shown["frames"]) == series["seed 2"]["x"][at]
    assert float(shown["seed 2"].replace("\u2212", "-")) == pytest.approx(series["seed 2"]["y"][at], rel=1e-3)
    assert "(95 % interval" in shown["mean of 3 seeds"]
    assert shown["the paper's score"] == "18.9"
    assert "± sd" in shown["Dopamine's DQN, another protocol"]

    whole = frames(hover(page, figure, 0.95)["frames"])
    box = figure.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 60, steps=4)
    page.mouse.up()
    assert frames(hover(page, figure, 0.95)["frames"]) < 0.45 * whole
    page.get_by_role("button", name="Whole curve").first.click()
    assert frames(hover(page, figure, 0.95)["frames"]) == whole

    page.get_by_role("button", name="Hours").first.click()
    assert page.get_by_role("button", name="Hours").first.get_attribute("aria-pressed") == "true"
    shown = hover(page, figure, 0.99)
    assert shown["hours"] == "1 h"  # the slowest seed: 20 rows, 3 minutes each
    assert "Dopamine's DQN, another protocol" not in shown, "nobody knows its hours"
    assert "hours of wall-clock" in figure.inner_text()


def test_videos_play_in_their_shape_and_sizes_are_tabs(opened):
    page = opened("toy_pong.html")
    videos = page.locator("#own-paper video")
    assert videos.count() == 2
    for video in videos.all():
        video.evaluate("v => v.play()")
        page.wait_for_function("v => v.currentTime > 0.05", arg=video.element_handle())
        assert video.evaluate("v => [v.videoWidth, v.videoHeight]") in ([32, 42], [48, 32])
        box = video.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(4 / 3, 0.02)
    link = page.locator('nav.sizes a[href="#own-hour"]')
    link.focus()
    page.keyboard.press("Enter")
    assert page.locator("#own-hour").is_visible()
    assert not page.locator("#own-paper").is_visible()
    assert link.get_attribute("aria-current") == "true"
    assert page.locator("#own-hour figure.drawn").count() > 4


@pytest.mark.parametrize("name", ["toy_pong.html", "toy_montezuma.html", "toy_cartpole.html", "index.html"])
def test_phone_and_the_dark(opened, name):
    page = opened(name, viewport={"width": 375, "height": 700}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != background
    # with dozens of papers a table is wider than any screen: it scrolls, the page does not
    page.evaluate("document.querySelectorAll('.scroll th').forEach((th) => (th.style.minWidth = '50rem'))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["toy_pong.html", "index.html"])
def test_accessible(opened, name, scheme):
    page = opened(name, color_scheme=scheme)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0].get("failureSummary")) for v in found] == []


# verdict or state -> what leads to it: the task, and one mean a seed at the paper's length
STATES = {
    "replicated": ("pong", (18.0, 18.5, 19.0)),
    "not_replicated": ("pong", (10.0, 10.5, 11.0)),
    "undecided": ("pong", (12.0, 15.0, 18.0)),
    "reached": ("pong", (18.0, 18.5)),
    "not_reached": ("pong", (-20.0,)),
    "not_testable": ("montezuma", (0.0, 0.0, 0.0)),
    "no_published": ("cartpole", (480.0, 470.0)),
    "not_averaged": ("pong", (18.0, 18.5, 19.0)),
    "nothing_yet": ("pong", ()),
    "in_progress": ("pong", ()),
    "failed": ("pong", ()),
}


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> Path:
    """One page for each verdict and each state, and that of a task with claims, without any training."""
    root = tmp_path_factory.mktemp("states")
    before = Path.cwd()
    os.chdir(root)
    try:
        for key, (task, means) in STATES.items():
            here = root / key
            folder = here / "replications" / "toy"
            folder.mkdir(parents=True)
            for name, text in {
                "paper.yaml": PAPER_YAML,
                "published.csv": PUBLISHED_CSV,
                "train.py": TRAIN_PY,
            }.items():
                (folder / name).write_text(text)
            for seed, mean in enumerate(means, start=1):
                odd = {"code_sha256": "beef" * 16} if key == "not_averaged" and seed == 2 else {}
                write_run(
                    here, size="paper", seed=seed, mean=mean, frames=PAPER_FRAMES, task=task, provenance=odd
                )
            if key in ("in_progress", "failed"):
                state = "failed" if key == "failed" else "training"
                write_progress(here, state=state, curve="\n".join(curve_rows(20_000, 0.0)) + "\n")
            write(root / f"{key}.html", build(target_of(here, task), "own", here / "results")[0])
        write(root / "claims.html", build(load_target("double_dqn_overestimation"), "own", root / "none")[0])
    finally:
        os.chdir(before)
    return root


def test_every_verdict_and_state_has_a_page_that_is_whole(browser, states):
    """Drawn without complaint, no wider than a phone, accessible in light and dark, and marked with its verdict."""
    context = browser.new_context(viewport={"width": 375, "height": 700}, color_scheme="light")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    said: list[str] = []
    page.on(
        "console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    found = {}
    for key in (*STATES, "claims"):
        page.emulate_media(color_scheme="light")
        page.goto(f"file://{states}/{key}.html")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        problems = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        page.emulate_media(color_scheme="dark")  # colours are all that changes
        dark = "axe.run(document, {resultTypes: ['violations'], runOnly: ['color-contrast']})"
        problems += page.evaluate(dark)["violations"]
        found[key] = {
            "verdict": page.locator("html").get_attribute("data-verdict"),
            "badge": page.locator(".verdict .badge:visible").first.inner_text(),
            "fits": page.evaluate("document.documentElement.scrollWidth") <= 375,
            "drawn": page.locator("figure[data-chart]").count()
            == page.locator("figure[data-chart].drawn canvas").count(),
            "problems": [
                (v["id"], v["nodes"][0]["html"][:200], v["nodes"][0].get("failureSummary")) for v in problems
            ],
            "said": said[:],
        }
        said.clear()
    context.close()
    whole = {"fits": True, "drawn": True, "problems": [], "said": []}
    expected = {key: {"verdict": key, "badge": WORDS[key][0], **whole} for key in STATES}
    expected["claims"] = expected["replicated"]
    assert {key: page for key, page in found.items() if page != expected[key]} == {}


def test_index_filters_and_links(opened):
    page = opened("index.html")
    rows = page.locator("table.matrix tbody tr:visible")
    assert rows.count() == 2, "it opens on what has results"
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("location.hash === '#results=0'")
    everything = rows.count()
    assert everything == 3
    page.get_by_label("Task", exact=True).fill("pon")
    assert rows.count() == 1
    assert page.locator("#shown").inner_text() == "2 of 4 pages shown"  # the paper and its variant
    page.get_by_label("variants").uncheck()
    assert page.locator("#shown").inner_text() == "1 of 4 pages shown"
    assert page.evaluate("location.hash") == "#task=pon&results=0&variants=0"
    page.reload()
    assert rows.count() == 1, "a view can be linked to"
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("location.hash === '#results=0'")
    assert rows.count() == everything
    page.get_by_label("Verdict", exact=True).select_option("replicated")
    assert rows.count() == 1
    page.get_by_label("Verdict", exact=True).select_option("")
    page.get_by_label("only with results").check()
    assert rows.count() == 2
    page.get_by_label("Task", exact=True).fill("nothing like it")
    assert page.get_by_text("No page fits these filters.").is_visible()
    page.get_by_role("button", name="Show all").click()
    page.locator('table.matrix a[href="toy_pong.html"]').click()
    page.wait_for_url("**/toy_pong.html")
    assert page.locator("h1").inner_text() == "Pong"


def test_without_scripts_and_on_paper_everything_is_there(opened):
    page = opened("toy_pong.html", java_script_enabled=False)
    assert page.locator("section.size:visible").count() == 2
    assert page.locator("#own-paper svg.still:visible").count() > 4
    page = opened("toy_pong.html")
    page.emulate_media(media="print")
    assert page.locator("#own-paper svg.still:visible").count() > 4
    assert page.locator(".controls:visible, .plot:visible, video:visible").count() == 0


def test_html_is_valid(site):
    html5lib = pytest.importorskip("html5lib")
    pages = list(site.glob("*.html"))
    assert pages
    for path in pages:
        parser = html5lib.HTMLParser(strict=False)
        parser.parse(path.read_text(encoding="utf-8"))
        assert [(code, where) for where, code, _ in parser.errors] == [], path.name
        assert path.stat().st_size < 1_000_000
