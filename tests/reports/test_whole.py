"""The pages of a printed table and of a whole paper, from synthetic runs of a toy: every number by hand, every state of a claim."""

import csv
import io
import re
import shlex
import shutil
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from common import papers
from common.errors import UserError
from common.workflow import Flow
from reports import paper_page, site, table_page, task_page
from reports.charts import PALETTE
from reports.curves import Series
from reports.render import build
from reports.whole import cell_of, missing_of, target_of
from tests.reports.pages import PAPER_FRAMES, PAPER_YAML, PUBLISHED_CSV, Reader, edit, write_run

PRINTED = """toy,two,toy,0.8,,t,Table 3
toy,two,slow,0.3,,t,Table 3
toy,pong,other,12,,p,Table 4
toy,montezuma,other,5,,p,Table 4
"""
WHOLE = """
tables:
  - name: table_3
    title: Objectives
    source: Table 3
    layout: objectives
    tasks: [pong, montezuma]
    seeds: 3
    printed: {file: published.csv, game: two}
    random: {file: published.csv, metrics: [random]}
    rows:
      - {title: The toy, variant: base, metric: toy}
      - {title: The slow toy, variant: slow, metric: slow}
    notes: [The scale is ours.]
    claims:
      - {name: faster, statement: The toy is better than the slow toy, source: Table 3, higher: {rows: [base]}, lower: {rows: [slow], take: highest}}
      - {name: below, statement: The slow toy is worse than random play, source: Table 3, higher: 0, lower: {rows: [slow]}}
  - name: table_4
    title: Scores
    source: Table 4
    layout: scores
    tasks: [pong, montezuma]
    seeds: 3
    printed: {file: published.csv, protocol: p}
    rows:
      - {title: Other, metric: other}
      - {title: Toy, variant: base, metric: toy}
claims:
  - {name: objectives, statement: The toy is better, source: Table 3, decided_by: {table: table_3, comparison: faster}}
  - {name: human, statement: Half of the games above three quarters of human level, source: Table 2,
     decided_by: {games: above_human_share, level: 0.75, at_least: 1}}
  - {name: beats, statement: The toy beats the other in both games, source: Table 4,
     decided_by: {games: above_printed, printed: {file: published.csv, metric: other}, at_least: 2}}
  - {name: typical, statement: The median is at human level, source: Section 4, decided_by: {aggregate: median, at_least: 1}}
  - {name: lost, statement: It also drives, source: Section 5, decided_by: {nothing: the car was scrapped}}
"""


def write_whole(folder):
    """The toy's files with tables and claims."""
    text = PAPER_YAML.replace(
        '- {names: [pong], kind: atari, title: "{name}", protocol: nature, published: none, published_reason: not printed}',
        '- {names: [pong, montezuma], kind: atari, title: "{name}", protocol: nature, paper_frames: 4000000, published: none,'
        " published_reason: not printed}",
    )
    (folder / "paper.yaml").write_text(text + WHOLE)
    (folder / "published.csv").write_text(PUBLISHED_CSV + PRINTED)


@pytest.fixture
def whole(toy, monkeypatch):
    """The toy with tables and claims; returns a function that loads it."""
    write_whole(toy / "replications/toy")

    def load():
        return papers.load_paper("toy", root=toy / "replications")

    monkeypatch.setattr(papers, "load_papers", lambda: {"toy": load()})
    return load


def write(toy, variant=None, task="pong", means=(10.0, 11.0, 12.0), rate=0.00025, **options):
    """Runs at the paper's length, seed 1 first."""
    for seed, mean in enumerate(means, start=1):
        settings = {
            "training_steps": 1_000_000, "learning_rate": 0.0001 if variant else rate, "target_period": 10_000
        }  # fmt: skip
        write_run(
            toy, task=task, variant=variant, seed=seed, mean=mean, size="paper", frames=PAPER_FRAMES, settings=settings,
            **options,
        )  # fmt: skip


def table(toy, name="table_3"):
    text = table_page.render_table(f"toy_{name}", toy / "results", toy / "page.html").read_text()
    return Reader(text), text


def verdicts(text, attribute="data-claim"):
    reader = Reader(text)
    return {a[attribute]: a["data-key"] for tag, a in reader.tags if tag == "tr" and attribute in a}


def test_objectives_by_hand(toy, whole):
    write(toy, task="pong", means=(9.3, 3.3, 6.3))
    write(toy, task="montezuma", means=(100.0, 400.0, 1000.0))
    write(toy, "slow", task="pong", means=(-20.7, -23.7, -26.7))
    write(toy, "slow", task="montezuma", means=(0.0, 0.0, 0.0))
    page, text = table(toy)
    # pong: random -20.7, best 9.3: (1 + .8 + .9) / 3 = .9; montezuma: random 0, best 1000: .5; the mean .7
    rows = {row[0]: row[1:] for row in page.table("scores printed")[1:]}
    assert rows["The toy"][:2] == ["0.8", "0.70"]
    assert rows["The toy"][3] == "6 of 6"
    # pong: 0, -.1, -.2; montezuma 0: the mean -.05
    assert rows["The slow toy"][1] == "\u22120.05"
    assert verdicts(text) == {"faster": "replicated", "below": "undecided"}  # -.1 to 0 touches 0
    assert 'data-verdict="undecided"' in text
    matrix = {row[0]: row[1:] for row in page.table("matrix whole")[1:]}
    assert "0.90" in matrix["The toy"][0]
    assert "0.50" in matrix["The toy"][1]
    assert "The scale is ours." in page.words


def test_a_claim_that_fails_and_one_that_waits(toy, whole):
    write(toy, task="pong", means=(-20.0, -20.1, -20.2))
    write(toy, task="montezuma", means=(10.0, 11.0, 12.0))
    write(toy, "slow", task="pong", means=(9.0, 9.1, 9.2))
    _, text = table(toy)
    assert verdicts(text) == {"faster": "in_progress", "below": "in_progress"}
    assert "3 runs to come, about 2.5 h of one process" in text  # 3000 s each, three of montezuma
    assert "The numbers are provisional" in text
    write(toy, "slow", task="montezuma", means=(500.0, 510.0, 520.0))
    _, text = table(toy)
    assert verdicts(text) == {"faster": "not_replicated", "below": "not_replicated"}
    assert 'data-verdict="not_replicated"' in text
    assert "to come" not in text
    assert "Not replicated; 2 of 2 claims decided: not replicated" in text
    assert "provisional" not in text


def test_a_table_with_a_claim_that_waits_is_in_progress(toy, whole):
    write(toy, "slow", task="pong", means=(9.0, 9.1, 9.2))
    write(toy, "slow", task="montezuma", means=(500.0, 510.0, 520.0))
    page, text = table(toy)
    assert verdicts(text) == {"faster": "in_progress", "below": "not_replicated"}
    assert 'data-verdict="in_progress"' in text
    assert "In progress; 1 of 2 claims decided: not replicated" in page.words


def also_read_random_play_as_idle(root, **scores: float) -> None:
    with (root / "replications/toy/published.csv").open("a") as file:
        file.writelines(f"toy,{task},idle,{score},,p,Table 4\n" for task, score in scores.items())
    paper = root / "replications/toy/paper.yaml"
    paper.write_text(paper.read_text().replace("metrics: [random]", "metrics: [random, idle]"))


def test_a_claim_that_hangs_on_what_random_play_is_is_undecided(toy, whole):
    also_read_random_play_as_idle(toy, pong=-29, montezuma=-100)
    for variant, pong, montezuma in (("", 9.0, 100.0), ("slow", -25.0, 0.0)):
        write(toy, variant, task="pong", means=(pong, pong + 0.1, pong + 0.2))
        write(toy, variant, task="montezuma", means=(montezuma,) * 3)
    page, text = table(toy)  # slow is below random play in Pong, and above the idle player in both
    assert verdicts(text) == {"faster": "replicated", "below": "undecided"}
    assert "where random play is idle" in page.words
    assert page.table("numbers scale")[1][1:3] == ["\u221220.7", "\u221229.0"]


def test_another_reading_of_random_play_above_every_run_turns_no_sign(toy, whole):
    """The scale then has no best run; who is worse stays worse."""
    also_read_random_play_as_idle(toy, pong=20, montezuma=2000)
    for variant, pong in (("", 9.0), ("slow", -25.0)):
        write(toy, variant, task="pong", means=(pong, pong + 0.1, pong + 0.2))
        write(toy, variant, task="montezuma", means=(0.0, 0.0, 0.0))
    assert verdicts(table(toy)[1])["faster"] == "replicated"


def test_fewer_than_three_seeds_decide_nothing(toy, whole):
    """In any cell: the first one has three."""
    for task, means in (("pong", (9.0, 9.1, 9.2)), ("montezuma", (9.0, 9.1))):
        write(toy, task=task, means=means)
        write(toy, "slow", task=task, means=(-30.0, -30.1))
    _, text = table(toy)
    assert set(verdicts(text).values()) == {"undecided"}


def test_two_rows_of_the_same_runs_are_drawn_by_chances_of_their_own(toy, whole):
    for task in ("pong", "montezuma"):
        write(toy, task=task)
        write(toy, "slow", task=task)
    entry = whole().printed_tables[0]
    found = table_page.measured(whole(), entry, toy / "results")
    base, slow = (row.variant for row in entry.rows)
    assert found.mean(base) == found.mean(slow)
    assert (found.drawn(base) != found.drawn(slow)).mean() > 0.5


def test_only_runs_of_the_papers_settings_count(toy, whole):
    write(toy, rate=0.5)  # tuned
    write_run(toy, size="hour", mean=20.0)  # shorter
    cell = cell_of(target_of(whole(), "", "pong"), toy / "results")
    assert (cell.runs, cell.source) == ((), None)
    assert cell.other in (
        "paper: made under other settings than today's",
        "hour: shorter than the paper's runs",
    )
    write(toy, recorded=True, means=(1.0, 2.0, 3.0, 4.0))
    cell = cell_of(target_of(whole(), "", "pong"), toy / "results", seeds=3)
    assert (cell.scores, cell.source) == ([1.0, 2.0, 3.0], "recorded")
    edit(toy / "replications/toy/recorded/base/pong/paper/seed3/run.json", superseded="another rule")
    cell = cell_of(target_of(whole(), "", "pong"), toy / "results", seeds=3)
    assert cell.scores == [1.0, 2.0, 4.0]
    for seed in (1, 2):
        code = {"code_sha256": str(seed), "lock_sha256": "10c4" * 16, "rom_sha256": "40a1" * 16}
        edit(toy / f"replications/toy/recorded/base/pong/paper/seed{seed}/run.json", provenance=code)
    cell = cell_of(target_of(whole(), "", "pong"), toy / "results")
    assert (cell.runs, cell.other) == ((), "seeds of different code or packages, which are not averaged")


def test_scores_stand_beside_all_printed_agents(toy, whole):
    write(toy, means=(12.0, 13.0, 14.0))
    page, text = table(toy, "table_4")
    assert page.table("scores printed")[1][:4] == ["Pong", "12", "not here", "18.9"]
    assert "13.0" in page.table("scores printed")[1][4]
    assert page.table("scores printed")[2] == ["Montezuma", "5", "not here", "0", "\u2013"]
    assert 'data-verdict="in_progress"' in text


def test_the_csv_has_every_seed_and_the_latex_every_row(toy, whole):
    write(toy, means=(12.0, 13.0, 14.5))
    page, _ = table(toy)
    csv_text, latex = (
        urllib.parse.unquote(a["href"].split(",", 1)[1]) for tag, a in page.tags if "download" in a
    )
    rows = list(csv.DictReader(io.StringIO(csv_text)))
    assert [(r["row"], r["task"], r["seed"], r["score"]) for r in rows] == [
        ("The toy", "pong", "1", "12.0"), ("The toy", "pong", "2", "13.0"), ("The toy", "pong", "3", "14.5")
    ]  # fmt: skip
    assert latex.count(r"\\") == 3
    assert r"\toprule" in latex
    assert "The slow toy & 0.3" in latex


def test_a_whole_paper_with_nothing_run(toy, whole):
    out = paper_page.render_paper("toy", toy / "results", toy / "toy.html")
    text = out.read_text()
    assert verdicts(text) == {
        "objectives": "nothing_yet", "human": "nothing_yet", "beats": "nothing_yet", "typical": "nothing_yet", "lost": "not_testable"
    }  # fmt: skip
    assert "The car was scrapped." in text
    assert 'data-verdict="nothing_yet"' in text


def test_shorter_runs_are_too_short_for_a_claim(toy, whole):
    write_run(toy, mean=9.0)
    text = paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text()
    keys = verdicts(text)
    assert (keys["human"], keys["typical"], keys["objectives"]) == ("too_short",) * 3
    assert 'data-verdict="too_short"' in text
    assert "shorter than the paper" in text
    write(toy, task="montezuma", means=(10.0, 11.0, 12.0))  # one game is there now
    text = paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text()
    assert verdicts(text)["typical"] == "in_progress"


def test_results_copied_from_elsewhere_render_without_weights(toy, whole, tmp_path_factory, monkeypatch):
    """As `rsync -a` brings them from a cluster: every page has the same numbers, and nothing is asked of the weights."""
    write(toy, means=(12.0, 13.0, 14.0), weights=True)
    copied = tmp_path_factory.mktemp("laptop") / "results"
    shutil.copytree(toy / "results", copied, ignore=shutil.ignore_patterns("*.safetensors", "*.mp4"))
    assert not list(copied.rglob("model.safetensors"))
    for name, render in (
        ("toy", paper_page.render_paper),
        ("pong", task_page.render_task),
        ("toy_table_4", table_page.render_table),
    ):
        here = render(name, toy / "results", toy / "here.html").read_text()
        there = render(name, copied, toy / "there.html").read_text()
        assert "11 to 15" in there or "13.0" in there
        assert there == here
    monkeypatch.chdir(copied.parent)
    page = build(target_of(whole(), "", "pong"), "own", copied)[0]
    assert Reader(page).html["data-verdict"] in ("undecided", "not_replicated")


def test_claims_over_games_are_settled_as_soon_as_they_can_be(toy, whole):
    # human level: pong 9.3 from -20.7; three quarters of it is 1.8
    write(toy, means=(1.0, 2.0, 3.0))
    text = paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text()
    keys = verdicts(text)
    assert keys["human"] == "replicated"  # 2.0 is above, and one game is enough
    assert keys["beats"] == "not_replicated"  # 2.0 is not above 12: both games can no longer be
    assert keys["typical"] == "in_progress"
    write(toy, task="montezuma", means=(8000.0, 8100.0, 8200.0))
    page = Reader(paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text())
    # median of .757 and 1.85
    rows = {row[0]: row[1:] for row in page.table("numbers aggregates")[1:]}
    ours = (22.7 / 30 + 8100 / 4367) / 2
    assert rows["Median"][0].startswith(f"{100 * ours:.0f}")
    assert rows["Games above human level"][0] == "50 %"
    assert "2 games" in page.words


def test_a_claim_over_games_says_what_would_settle_it_in_one_command(toy, whole):
    page = Reader(paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text())
    assert "./run snakemake reports/toy_{pong,montezuma}.html --config budget=paper seeds=3" in page.words
    assert "6 runs to come, not measured yet" in page.words
    assert "No game has 3 seeds of the paper's length yet; 1 of 2 are claimed." in page.words
    write(toy, means=(-20.0, -20.0, -20.0))
    page = Reader(paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text())
    assert "./run snakemake reports/toy_montezuma.html --config budget=paper seeds=3" in page.words
    assert "3 runs to come, about 2.5 h" in page.words


def test_what_a_command_trains_is_said_where_it_is_more_than_what_is_to_come(toy, whole):
    """A command knows no recorded runs."""
    write(toy, means=(-20.0,), recorded=True)
    cells = {task: cell_of(target_of(whole(), "", task), toy / "results") for task in ("pong", "montezuma")}
    missing = missing_of(list(cells.values()), lambda cell: 3, "./run")
    assert (missing.runs, missing.trained) == (5, 6)
    assert missing.words == (
        "5 runs to come, about 4.2 h of one process; the command trains 6 runs, about 5.0 h: all of its pages, recorded runs again"
    )
    assert (
        missing_of([cells["montezuma"]], lambda cell: 3, "./run").words == "3 runs to come, not measured yet"
    )
    more = missing_of([cells["montezuma"]], lambda cell: 2, "./run", list(cells.values()))
    assert (more.runs, more.trained) == (2, 4)
    write(toy, means=(-20.0, -20.0))  # of one's own, which no command trains again
    cell = cell_of(target_of(whole(), "", "pong"), toy / "results")
    assert missing_of([cell], lambda cell: 3, "./run").words == "1 run to come, about 50 min of one process"


def test_the_commands_of_claims_train_what_they_say():
    """For every claim of every paper that lacks runs."""
    loaded = papers.load_papers()
    tried = 0
    for paper in loaded.values():
        for claim, decision in paper_page.context_of(paper, "", Path("nowhere"))["claims"]:
            missing = decision.missing
            if missing and "--config targets" in missing.command:
                words = shlex.split(missing.command.partition("--config ")[2])
                config = dict(word.split("=") for word in words)
                targets = Flow(config).config["targets"]
                assert len(targets) * int(config["seeds"]) == missing.trained, claim.name
                assert {f"{paper.name}_{task}" for task in claim.tasks} <= {*targets}
                tried += 1
    assert tried >= 4


def test_two_seeds_settle_nothing_over_games(toy, whole):
    write(toy, means=(9.0, 9.3))
    text = paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text()
    assert verdicts(text)["human"] == "in_progress"


def test_wins_ties_and_losses_are_against_the_printed_scores(toy, whole):
    write(toy, means=(12.4, 12.4, 12.4))  # 12 as printed: a tie
    write(toy, task="montezuma", means=(4.0, 4.0, 4.0))
    page = Reader(paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text())
    assert page.table("numbers")[1] == ["Other, as printed in Table 4", "0", "1", "1"]


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ("variant: slow, metric: slow", "variant: slwo, metric: slow", "did you mean 'slow'"),
        ("comparison: faster", "comparison: fastr", "did you mean 'faster'"),
        ("tasks: [pong, montezuma]\n    seeds: 3\n    printed: {file: published.csv, game: two}", "tasks: [pongg]\n    seeds: 3\n    printed: {file: published.csv, game: two}", "did you mean 'pong'"),
        ("{rows: [slow], take: highest}", "{rows: [fast]}", "there are"),
        ("at_least: 2}", "at_least: 3}", "there are 2"),
        ("metric: other}", "metric: otter}", "unknown metric 'otter'"),
        ("- name: table_3\n", "- name: pong\n", "rename it"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_refused_with_its_place(toy, whole, old, new, message):
    file = toy / "replications/toy/paper.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        whole()
    assert "paper.yaml" in str(error.value)


def test_every_claim_about_a_printed_table_is_true_of_the_printed_values():
    checked = 0
    for paper in papers.load_papers().values():
        for entry in paper.printed_tables:
            for claim in entry.claims:
                printed = {row.variant: np.float64(row.printed["mean"].value) for row in entry.rows}
                assert claim.higher.of(printed, table_page.HOW) > claim.lower.of(printed, table_page.HOW), (
                    claim.name
                )
                checked += 1
    assert checked >= 3


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="did you mean 'ppo_table_1'"):
        table_page.render_table("ppo_table1", None)
    with pytest.raises(UserError, match="unknown paper 'dqnn'"):
        paper_page.render_paper("dqnn", None)


def test_a_task_shows_every_agent_with_runs_on_one_axis(toy, whole):
    write(toy, means=(12.0, 13.0, 14.0))
    write(toy, "slow", means=(-5.0,))
    write_run(toy, task="cartpole", mean=480.0)
    text = task_page.render_task("pong", toy / "results", toy / "pong.html").read_text()
    page = Reader(text)
    rows = {row[0]: row[1:] for row in page.table("scores main")[1:]}
    assert list(rows) == ["TOY (2015)", "TOY (2015), slower"]
    assert rows["TOY (2015)"][:3] == ["13", "11 to 15", "3"]
    assert rows["TOY (2015), slower"][:3] == ["\u22125.0", "one seed", "1"]
    assert text.count('<path class="curve s1"') == 1  # the three seeds are one line
    assert text.count('<polygon class="spread s1"') == 1
    assert text.count('<path class="curve s2"') == 1
    assert {"toy_pong.html", "toy-slow_pong.html", "index.html"} <= set(page.links)
    with pytest.raises(UserError, match="did you mean 'pong'"):
        task_page.render_task("pongg", toy / "results")


def test_a_task_of_many_agents_has_a_chart_for_each_on_the_same_axes(tmp_path):
    page = Reader(task_page.render_task("cartpole", tmp_path, tmp_path / "c.html").read_text())
    agents = [row[0] for row in page.table("scores main")[1:]]
    assert len(agents) > PALETTE
    assert not [tag for tag, a in page.tags if a.get("class") == "legend"]
    curves = [a["class"] for tag, a in page.tags if tag == "path" and "curve" in a.get("class", "")]
    own, others = ["curve s1"], ["curve faint"] * (len(agents) - 1)
    assert curves == [*others, *own] * len(agents) * 2  # against frames, then against time


def test_charts_side_by_side_have_the_axes_of_all_lines_and_their_bands():
    short = Series("short", [0, 10], [1.0, 2.0], "s1")
    far = Series("far", [0, 1000], [1.0, 400.0], "s2", low=[0.0, 300.0], high=[2.0, 500.0])
    charts = [chart["svg"] for chart in task_page.small_charts([short, far], [])]
    ticks = [re.findall(r'class="tick"[^>]*>([^<]*)<', svg) for svg in charts]
    assert ticks[0] == ticks[1] == ["0", "200", "400", "0", "500", "1,000"]
    lines = [set(re.findall(r' d="([^"]*)"', svg)) for svg in charts]
    assert lines[0] == lines[1]  # each line lies where it does in the other chart
    assert [svg.count("<polygon") for svg in charts] == [0, 1]


def test_a_task_without_runs_says_so(toy, whole):
    text = task_page.render_task("montezuma", toy / "results", toy / "m.html").read_text()
    assert "No agent has a finished run here yet." in text


def test_a_site_has_every_page_with_results_and_no_link_into_nothing(toy, whole):
    write(toy, means=(12.0, 13.0, 14.0))
    write_run(toy, task="cartpole", mean=480.0)
    pages = site.render_site(toy / "results", toy / "site")
    names = {page.name for page in pages}
    assert names == {
        "index.html", "toy_pong.html", "toy_cartpole.html", "toy.html", "toy-slow.html", "toy_table_3.html", "toy_table_4.html",
        "pong.html", "cartpole.html",
    }  # fmt: skip
    links = {
        (page.name, link)
        for page in pages
        for link in Reader(page.read_text()).links
        if not link.startswith(("http", "data:", "#"))
    }
    assert {
        ("index.html", "toy.html"),
        ("index.html", "pong.html"),
        ("toy.html", "toy_table_3.html"),
    } <= links
    assert not {link for _, link in links} - names


def test_every_claim_over_games_is_true_of_the_papers_own_printed_scores():
    """The papers' own tables decide each such claim as the paper does; else a run as good as printed would fail it."""
    checked = 0
    for paper in papers.load_papers().values():
        for claim in paper.claims:
            tasks = paper.variants[claim.variant].tasks
            games = [t for t in (tasks[name] for name in claim.tasks) if t.published]
            if claim.by not in ("games", "aggregate"):
                continue
            human = [
                (t.published.value - t.random.value) / abs(t.human.value - t.random.value) for t in games
            ]
            if claim.by == "aggregate":
                value = {"median": np.median, "mean": np.mean}[claim.statistic](human)
            elif claim.printed:
                value = sum(t.published.value > claim.printed[t.name].value for t in games)
            else:
                value = sum(share > claim.level for share in human)
            assert value >= claim.at_least, (paper.name, claim.name, value)
            checked += 1
    assert checked >= 8


def rising(*scores):
    """Rows of a curve.csv whose evaluation score goes through `scores`."""
    head = "agent_steps,frames,updates,episodes,epsilon,eval_score,eval_episodes,train_score_100,loss"
    return [head, *(f"{100 * i},{400 * i},{25 * i},{i},0.1,{y},30,{y},0.1" for i, y in enumerate(scores, 1))]


def test_no_interval_and_no_band_leaves_the_scores_that_can_be(toy, whole, monkeypatch):
    # Pong ends at 21; Student's interval of these ends at 30.6
    for seed, mean in enumerate((12.0, 20.8, 20.9), start=1):
        write_run(
            toy, seed=seed, mean=mean, size="paper", frames=PAPER_FRAMES, spread=0.1, curve=rising(-20, mean / 2, mean),
            settings={"training_steps": 1_000_000, "learning_rate": 0.00025, "target_period": 10_000},
        )  # fmt: skip
    charts = []
    for page in (paper_page, task_page):
        draw = page.Chart
        monkeypatch.setattr(
            page, "Chart", lambda *a, draw=draw, **k: charts.append(draw(*a, **k)) or charts[-1]
        )
    for name, render in (("toy", paper_page.render_paper), ("pong", task_page.render_task)):
        page = Reader(render(name, toy / "results", toy / "page.html").read_text())
        assert page.table("scores main")[1][1:4] == ["18", "seeds 12, 21, 21", "3"]
        assert "Where Student's interval would hold scores that cannot be" in page.words
    page, _ = table(toy, "table_4")
    assert page.table("scores printed")[1][4] == "18 (seeds 12, 21, 21)"
    bands = [s for chart in charts for s in chart.series if s.high]
    assert len(bands) == 2
    assert all(max(s.high) == 21.0 and min(s.low) >= -21.0 for s in bands)


def test_a_task_that_is_not_in_the_paper_has_no_run_of_the_papers_length(toy, whole, capsys):
    write(toy, means=(9.0, 9.1))
    write_run(toy, task="cartpole", mean=480.0, size="paper", frames=PAPER_FRAMES, settings={
        "training_steps": 1_000_000, "learning_rate": 0.00025, "target_period": 10_000
    })  # fmt: skip
    page = Reader(paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text())
    assert "toy.html: 2 runs of the paper's length.\n" in capsys.readouterr().out
    assert "2 runs at the paper\u2019s length took 1.7 hours" in page.words
    assert "1 of tasks that are not in the paper took 0.8." in page.words


def test_the_terminal_says_claims_in_the_pages_words(toy, whole, capsys):
    write_run(toy, mean=9.0)
    paper_page.render_paper("toy", toy / "results", toy / "toy.html")
    said = capsys.readouterr().out
    assert "toy.html: 0 runs of the paper's length.\n" in said
    assert "too short to judge: Half of the games above three quarters of human level\n" in said
    assert "not testable: It also drives\n" in said
    table(toy)
    assert (
        "0 of 12 runs.\n  too short to judge: The toy is better than the slow toy\n"
        in capsys.readouterr().out
    )


def test_the_performance_profile_is_the_share_of_runs_above_each_level(toy, whole, monkeypatch):
    figures = []
    monkeypatch.setattr(
        paper_page, "draw", lambda figure, curves, height: figures.append(curves["ours"]) or ""
    )
    # pong: 30 points are human level, so 0.5, 1, 1.5; montezuma: 4367 are, so 0, 2
    write(toy, means=(-5.7, 9.3, 24.3), spread=0.0)
    write(toy, task="montezuma", means=(0.0, 8734.0), spread=0.0)
    paper_page.render_paper("toy", toy / "results", toy / "toy.html")
    (curve,) = figures
    above = {round(x, 2): y for x, y, *_ in curve}
    ends = {round(x, 2): (low, high) for x, _, low, high in curve}
    assert ends[1.6][0] == 0.0 < above[1.6] < ends[1.6][1]
    assert "Band: 95 % interval at each score" in (toy / "toy.html").read_text()
    assert above[0.0] == pytest.approx((1 + 1 / 2) / 2)  # each game weighs the same
    assert above[0.95] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert above[1.6] == pytest.approx(1 / 4)
    assert above[3.0] == 0.0


def test_each_game_with_runs_has_a_small_chart_that_leads_to_its_page(toy, whole):
    write(toy, means=(12.0, 13.0, 14.0))
    text = paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text()
    smalls = text.partition('<div class="smalls">')[2].partition("</div>")[0]
    assert smalls.count("<figure") == 1  # nothing of montezuma
    assert '<a href="toy_pong.html">' in smalls
    assert [smalls.count(f'<path class="curve {css}"') for css in ("s1", "s2", "s3", "mean")] == [1] * 4
    assert (
        "3 runs at the paper\u2019s length took 2.5 hours of one process each, added up."
        in Reader(text).words
    )


def test_one_game_with_fewer_seeds_keeps_the_others_intervals(toy, whole):
    write(toy, means=(11.0, 12.0, 13.0))
    write(toy, task="montezuma", means=(4000.0,))
    text = paper_page.render_paper("toy", toy / "results", toy / "toy.html").read_text()
    page = Reader(text)
    rows = {row[0]: row[1:] for row in page.table("scores main")[1:]}
    assert rows["Pong"][:3] == ["12", "10 to 14", "3"]
    assert rows["Montezuma"][:3] == ["4,000.0", "one seed", "1"]
    aggregates = page.table("numbers aggregates")[1:]
    assert len(aggregates) == 5
    assert all(" to " in row[2] for row in aggregates)
    assert text.count('<polygon class="spread mean"') == 1


def test_a_suite_of_49_games_and_5_seeds(tmp_path):
    """29 games at 80 % of human level, the others at half of it: as many as DQN's claim asks for."""
    paper = papers.load_papers()["dqn"]
    games = [t for t in paper.variants[""].tasks.values() if t.human]
    assert len(games) == 49
    for number, game in enumerate(games):
        share = 0.8 if number < 29 else 0.5
        settings = papers.resolve(paper, None, game.name, "paper").settings
        mean = game.random.value + share * abs(game.human.value - game.random.value)
        for seed in range(1, 6):
            write_run(
                tmp_path, paper="dqn", task=game.name, seed=seed, mean=mean + 0.001 * seed, size="paper", spread=0.0,
                frames=game.paper_frames, settings=settings, curve=rising(game.random.value, mean), extra_count=2,
            )  # fmt: skip
    out = paper_page.render_paper("dqn", tmp_path / "results", tmp_path / "dqn.html")
    page = Reader(out.read_text())
    assert page.html["data-verdict"] == "replicated"
    assert "29 of 49 games with 3 seeds of the paper's length; 29 of 49 are claimed." in page.words
    rows = page.table("scores main")[1:]
    assert len(rows) == len({row[0] for row in rows}) >= 49
    assert [row[3] for row in rows if row[3] != "\u2013"] == ["5"] * 49
    aggregates = {row[0]: row[1] for row in page.table("numbers aggregates")[1:]}
    assert aggregates["Median"] == "80 %"
    assert aggregates["Mean"] == "68 %"  # (29 x 80 + 20 x 50) / 49
    assert aggregates["Games above human level"].startswith("0")
    others = len(list((papers.REPLICATIONS / "dqn/recorded/base/cartpole").glob("*/seed*")))
    assert "245 runs at the paper\u2019s length took 204" in page.words  # hours: 50 minutes a run
    assert f"; {others} of tasks that are not in the paper took" in page.words
    lines = next(a["href"] for tag, a in page.tags if a.get("download", "").endswith(".csv"))
    assert len(urllib.parse.unquote(lines).splitlines()) == 1 + 245 + others
    assert out.stat().st_size < 2_000_000


def test_a_task_of_our_own_says_its_bar_and_stands_beside_the_paper(toy, whole):
    write_run(toy, task="cartpole", seed=1, mean=480.0, spread=0.0)
    write_run(toy, task="cartpole", seed=2, mean=470.0, spread=0.0)
    page = Reader(task_page.render_task("cartpole", toy / "results", toy / "c.html").read_text())
    assert page.table("scores main")[0][-1] == "Verdict"
    assert "Published" not in page.table("scores main")[0]
    assert page.table("scores main")[1][-1] == "1 of 2 reach our bar of 475"
    line = Series("an agent", [1, 2], [10.0, 20.0], "s1", hours=[0.5, 1.5])
    assert [(unit, [s.xs for s in lines]) for unit, lines in (task_page.against_time([line]),)] == [
        ("minutes", [[30, 90]])
    ]
    longer = Series("another", [1, 2], [10.0, 20.0], "s2", hours=[1.0, 30.0])
    assert task_page.against_time([line, longer])[0] == "hours"
    paper = Reader(paper_page.render_paper("toy", toy / "results", toy / "t.html").read_text())
    assert [row[0] for row in paper.table("scores main")] == ["Task", "Pong", "Montezuma"]
    assert "Not in the paper" in paper.words
    assert "toy_cartpole.html" in paper.links
