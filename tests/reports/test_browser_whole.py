"""The pages of a paper, a task and a printed table, and the index of a site, in a real browser (see test_browser.py)."""

import os

import pytest

from common import papers
from reports import site as site_of_pages
from tests.reports.pages import TRAIN_PY, film, write_run
from tests.reports.test_browser import AXE, PATIENCE, browser, pytestmark  # noqa: F401
from tests.reports.test_whole import write, write_whole


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every kind of page with every part it can have."""
    root = tmp_path_factory.mktemp("whole")
    folder = root / "replications" / "toy"
    folder.mkdir(parents=True)
    write_whole(folder)
    (folder / "train.py").write_text(TRAIN_PY)
    write(root, means=(12.0, 13.0, 14.0), video=film(30, (42, 32)))
    write(root, task="montezuma", means=(8000.0, 8100.0, 8200.0))
    write(root, "slow", means=(-5.0, -6.0, -7.0), video=film(30, (42, 32)))
    write_run(root, task="cartpole", mean=480.0)
    before = os.getcwd()
    os.chdir(root)
    try:
        loaded = {"toy": papers.load_paper("toy", root=root / "replications")}
        patch = pytest.MonkeyPatch()
        patch.setattr(papers, "load_papers", lambda: loaded)
        site_of_pages.render_site(root / "results", root / "site")
        patch.undo()
    finally:
        os.chdir(before)
    return root / "site"


NAMES = ("toy", "toy-slow", "toy_table_3", "toy_table_4", "pong", "montezuma", "index")


def test_whole_pages_fit_and_are_accessible_in_light_and_dark(browser, site):  # noqa: F811
    """Also: below 2 MB, nothing from outside, and no complaint."""
    context = browser.new_context(viewport={"width": 375, "height": 700})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    said, asked, found = [], [], {}
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for name in NAMES:
        page.set_viewport_size({"width": 375, "height": 700})
        page.emulate_media(color_scheme="light")
        page.goto(f"file://{site}/{name}.html")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        problems = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        wide = [page.evaluate("document.documentElement.scrollWidth")]
        page.emulate_media(color_scheme="dark")
        contrast = "axe.run(document, {resultTypes: ['violations'], runOnly: ['color-contrast']})"
        problems += page.evaluate(contrast)["violations"]
        page.set_viewport_size({"width": 1280, "height": 800})
        wide.append(page.evaluate("document.documentElement.scrollWidth"))
        assert (site / f"{name}.html").stat().st_size < 2_000_000
        found[name] = (
            [(v["id"], v["nodes"][0]["html"][:160], v["nodes"][0].get("failureSummary")) for v in problems],
            wide[0] <= 375 and wide[1] <= 1280,
        )
    context.close()
    assert {name: what for name, what in found.items() if what != ([], True)} == {}
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", f"file://{site}/"))] == []


def test_the_first_column_of_the_index_stays_in_sight(browser, site):  # noqa: F811
    context = browser.new_context(viewport={"width": 375, "height": 700})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"file://{site}/index.html")
    page.evaluate(
        "document.querySelectorAll('table.matrix td').forEach((td) => (td.style.minWidth = '40rem'))"
    )
    places = """[...document.querySelectorAll('table.matrix tr > th:first-child')].map((th) => {
        th.closest('.scroll').scrollLeft = 300; return th.getBoundingClientRect().left; })"""
    lefts = page.evaluate(places)
    assert len(lefts) == 4
    assert all(left >= 0 for left in lefts)
    context.close()


def test_whole_pages_are_valid_html(site):
    html5lib = pytest.importorskip("html5lib")
    for name in NAMES:
        parser = html5lib.HTMLParser(strict=False)
        parser.parse((site / f"{name}.html").read_text(encoding="utf-8"))
        assert [(code, where) for where, code, _ in parser.errors] == [], name
