"""The index from synthetic run folders: its cells, its aggregates by hand, and the pages it makes to have something to link to."""

import math
import os

import pytest

from common import papers
from reports import index, render
from reports.index import aggregates, all_targets, entry_of, ours_against
from reports.render import PREVIEW
from tests.reports.pages import PAPER_FRAMES, Reader, edit, write_progress, write_run

PONG, MONTEZUMA = (-20.7, 9.3), (0.0, 4367.0)  # random, human


@pytest.fixture(autouse=True)
def scale(monkeypatch):
    """The toy's own games in the one table that every column is measured by."""
    monkeypatch.setattr(index, "one_table", lambda: {"pong": (-20.7, 9.3), "montezuma": (0.0, 4367.0)})


def test_every_column_is_measured_by_one_table(monkeypatch):
    monkeypatch.undo()
    loaded = papers.load_papers()
    scales = {index.scale_of(p.tasks["pong"]) for p in loaded.values() if "pong" in p.tasks}
    assert scales == {(-20.7, 14.6)}  # Wang et al. 2016, Table 2; Mnih et al. 2015 print 9.3
    assert index.scale_of(loaded["ppo"].tasks["cartpole"]) is None


@pytest.fixture
def entries(toy, monkeypatch):
    """All entries of the toy paper, read anew."""

    def load():
        return {"toy": papers.load_paper("toy", root=toy / "replications")}

    monkeypatch.setattr(papers, "load_papers", load)

    def read():
        return {e.target.name: e for e in (entry_of(t, toy / "results") for t in all_targets(load()))}

    return read


def rendered(toy) -> Reader:
    index.render_index(toy / "results", toy / "reports" / "index.html")
    return Reader((toy / "reports" / "index.html").read_text())


def test_every_page_stands_in_the_table_with_its_verdict(toy, entries):
    write_run(toy, mean=18.5)
    write_run(toy, size="smoke", mean=-20.0, frames=400)
    write_progress(toy, size="paper")
    write_run(toy, task="cartpole", mean=480.0, recorded=True)
    p = rendered(toy)
    assert p.table("matrix")[0] == ["Task", "TOY (2015)", "TOY (2015) slower"]
    cells = {row[0]: row[1:] for row in p.table("matrix")[1:]}
    assert list(cells) == ["Montezuma", "Pong", "CartPole"]  # games first
    assert "18.5" in cells["Pong"][0]
    assert "99 %" in cells["Pong"][0]
    assert "1.0 % of the paper's length; size hour, own" in cells["Pong"][0]
    assert "size hour, recorded" in cells["CartPole"][0]
    assert (cells["Montezuma"][1], cells["CartPole"][1]) == ("", "")  # the variant has no such task
    keys = {a["data-key"]: a["class"] for tag, a in p.tags if tag == "td" and "data-key" in a}
    assert keys == {"reached": "run-good has", "no_published": "none has", "nothing_yet": "wait"}
    assert sorted(p.links) == ["toy_cartpole.html", "toy_pong.html"]
    assert {page["page"]: page["verdict"] for page in p.data["pages"]}["toy_pong.html"] == "reached"
    assert [load for load in p.loads if not load.startswith("data:")] == []
    assert "It is not a ranking of algorithms" in p.words
    # without a finished run the state is shown
    os.rename(toy / "results/toy/pong/hour", toy / "aside")
    os.rename(toy / "results/toy/pong/smoke", toy / "aside2")
    assert entries()["toy_pong"].verdict.key == "in_progress"


def test_the_columns_with_the_most_results_come_first(toy, entries):
    assert rendered(toy).table("matrix")[0] == ["Task", "TOY (2015)", "TOY (2015) slower"]
    settings = {"training_steps": 10_000, "learning_rate": 0.0001, "target_period": 10_000}
    write_run(toy, variant="slow", settings=settings)
    assert rendered(toy).table("matrix")[0] == ["Task", "TOY (2015) slower", "TOY (2015)"]


def test_aggregates_by_hand(toy, entries):
    for seed, (pong, montezuma) in enumerate([(0.5, 0.2), (0.7, 0.4)], start=1):
        for task, share, (random, human) in (("pong", pong, PONG), ("montezuma", montezuma, MONTEZUMA)):
            write_run(toy, task=task, seed=seed, mean=random + share * (human - random), spread=0)
    (row,) = aggregates(list(entries().values()))
    assert (row["agent"], row["length"], row["games"], row["seeds"]) == ("toy", "shorter", 2, "2")
    assert row["values"]["median"] == pytest.approx((0.6 + 0.3) / 2)  # of the games' means over seeds
    assert row["values"]["iqm"] == pytest.approx((0.4 + 0.5) / 2)  # 0.2 and 0.7, a quarter each, are cut
    assert row["median"].startswith("45 % (3")
    published = sorted([(18.9 + 20.7) / 30, 0.0])
    assert row["paper_median"] == f"{50 * sum(published):.0f} %"
    assert row["outcomes"] == {"win": 1, "tie": 0, "loss": 1}  # Montezuma's Revenge: above the printed 0
    # a game with one seed less weighs as much, and takes no interval from the other
    (toy / "results/toy/pong/hour/seed2/evaluation.json").unlink()
    (row,) = aggregates(list(entries().values()))
    assert row["seeds"] == "1 to 2"
    assert row["values"]["median"] == pytest.approx((0.5 + 0.3) / 2)
    assert row["values"]["iqm"] == pytest.approx((0.4 + 0.5) / 2)  # of 0.5 twice, 0.2 and 0.4
    assert row["median"] == "40 % (35 to 45 %)"
    # with one seed each there is no interval
    (toy / "results/toy/montezuma/hour/seed2/evaluation.json").unlink()
    (row,) = aggregates(list(entries().values()))
    assert row["seeds"] == "1"
    assert "(" not in row["median"]


def test_runs_at_the_papers_length_and_shorter_ones_are_never_put_together(toy, entries):
    write_run(toy, mean=9.3)
    write_run(toy, task="montezuma", size="paper", mean=4367.0, frames=PAPER_FRAMES)
    # two games, but one of each length, and one game is no aggregate
    assert aggregates(list(entries().values())) == []
    write_run(toy, size="paper", mean=9.3, frames=PAPER_FRAMES)
    (row,) = aggregates(list(entries().values()))
    assert (row["length"], row["values"]["games"]) == ("the paper's length", ["pong", "montezuma"])


def test_a_tie_is_equal_as_printed(toy, entries):
    folder = write_run(toy, scores=[18.9] * 30)
    assert ours_against(entries()["toy_pong"]) == "tie"
    edit(folder / "evaluation.json", score=18.94, episodes=[{"score": 18.94}] * 30)
    assert ours_against(entries()["toy_pong"]) == "tie"
    edit(folder / "evaluation.json", score=18.96, episodes=[{"score": 18.96}] * 30)
    assert ours_against(entries()["toy_pong"]) == "win"
    assert ours_against(entries()["toy_cartpole"]) is None


def test_runs_that_differ_and_damaged_ones_stay_out_and_are_said(toy, entries):
    write_run(toy, task="montezuma", mean=100.0)
    write_run(toy, seed=1)
    assert len(aggregates(list(entries().values()))) == 1
    write_run(toy, seed=2, provenance={"code_sha256": "beef" * 16})
    assert aggregates(list(entries().values())) == []  # only Montezuma's Revenge is left
    for seed in (1, 2):
        (toy / f"results/toy/pong/hour/seed{seed}/run.json").write_text("{")
    p = rendered(toy)
    assert "Damaged results" in p.words
    assert "results/toy/pong/hour/seed1/run.json: not valid JSON" in p.words
    assert p.links == ["toy_montezuma.html"]


def test_previews_are_made_once_and_never_over_a_page_of_the_workflow(toy, entries):
    write_run(toy, mean=18.5)
    p = rendered(toy)
    page = toy / "reports" / "toy_pong.html"
    assert (p.links, page.stat().st_mtime) == (["toy_pong.html"], PREVIEW)
    assert [f.name for f in (toy / "reports").glob("*.html")].count("toy_montezuma.html") == 0
    page.write_text("the workflow's")
    rendered(toy)
    assert page.read_text() == "the workflow's"
    os.utime(page, (PREVIEW, PREVIEW))
    rendered(toy)
    assert Reader(page.read_text()).html["data-verdict"] == "reached"
    # without results there is no page; one that is there is linked
    (toy / "reports" / "toy_montezuma.html").write_text("x")
    assert sorted(rendered(toy).links) == ["toy_montezuma.html", "toy_pong.html"]


@pytest.mark.parametrize(
    "what", ["nothing", "score", "another seed", "a run begins", "a run goes", "paper", "table", "code"]
)
def test_a_preview_is_kept_until_what_it_was_made_from_changes(toy, entries, monkeypatch, what):
    folder = write_run(toy, mean=18.5)
    write_run(toy, seed=2, mean=18.5)
    rendered(toy)
    page = toy / "reports" / "toy_pong.html"
    before, text = page.stat().st_ino, page.read_text()
    if what == "score":
        edit(folder / "evaluation.json", score=17.5, episodes=[{"score": 17.5}] * 30)
    elif what == "another seed":
        write_run(toy, seed=3, mean=12.0)
    elif what == "a run begins":
        write_progress(toy, seed=3)
    elif what == "a run goes":
        (toy / "results/toy/pong/hour/seed2").rename(toy / "aside")
    elif what in ("paper", "table"):
        file = toy / "replications/toy" / {"paper": "paper.yaml", "table": "published.csv"}[what]
        file.write_text(
            file.read_text().replace("A toy that learns", "Toys").replace("18.9,1.3", "18.85,1.3")
        )
    elif what == "code":
        monkeypatch.setattr(render, "_code", lambda: "another state")
    rendered(toy)
    assert (page.stat().st_ino == before) == (what == "nothing")
    assert (page.read_text() == text) == (what == "nothing")
    assert page.stat().st_mtime == PREVIEW
    if what == "a run begins":  # how long it has been silent changes with the clock
        before = page.stat().st_ino
        rendered(toy)
        assert page.stat().st_ino != before


def test_hostile_numbers_stay_on_the_page(toy, entries):
    write_run(toy, task="montezuma", mean=1e5, spread=9e4, extra=[])
    write_run(toy, mean=-20.7, spread=0, extra=[])
    p = rendered(toy)
    assert "100,000" in p.words.replace("\u2212", "-")
    assert not any(
        isinstance(v, float) and math.isnan(v) for page in p.data["pages"] for v in page["seed_scores"]
    )
