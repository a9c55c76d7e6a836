"""The page of a task with claims, from run folders made by hand."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from common import papers
from common.errors import UserError
from reports import claims_page, runs
from reports.charts import draw
from reports.index import entry_of
from reports.render import render
from reports.scores import judge_claims
from reports.target import load_target
from reports.words import number

NAME = "double_dqn_overestimation"
GOOD = {
    "bound_held": 1.0, "tight_off": 1e-12, "double_off": 0.0, "uniform_bias_2": 0.0, "uniform_bias_10": 0.0, "uniform_bias_100": 0.0,
    "single_growth_a_doubling": 0.27, "single_largest": 3.2, "single_from_theory": 0.0, "double_mean": 0.0,
    "double_largest": 0.0, "row_1_single": 0.612, "row_1_double": -0.021, "row_2_single": 0.473, "row_2_double": 0.016,
    "row_3_single": 3.349, "row_3_double": -0.016,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_runs_only(monkeypatch):
    """Whatever is recorded in the repository stays out of these pages."""
    monkeypatch.setattr(
        runs, "roots", lambda target, results: {"own": results / "double_dqn" / "overestimation"}
    )


def write_run(root, seed, size="paper", measures=GOOD, **changes):
    folder = root / "double_dqn" / "overestimation" / size / f"seed{seed}"
    (folder / "checkpoint").mkdir(parents=True)
    settings = papers.resolve("double_dqn", None, "overestimation", size).settings
    run = {
        "paper": "double_dqn", "variant": None, "task": "overestimation", "budget": size, "seed": seed,
        "settings": settings, "settings_key": "0" * 12, "cost": {"seconds": 1.5, "peak_memory_mb": 300},
        "provenance": {"code_sha256": "c", "lock_sha256": "l", "command": "python -m replications.double_dqn.overestimation"},
    } | changes  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "measures.json").write_text(json.dumps(measures))
    (folder / "points.csv").write_text(
        "figure,series,x,y\n"
        + "".join(f"figure_1,{name},{x},{seed * x}\n" for name in ("single", "double") for x in (2, 4, 1024))
    )
    return folder


def page(tmp_path, **options):
    text = render(NAME, out=tmp_path / "page.html", results=tmp_path, **options).read_text()
    return text, re.search(
        r'<html lang="en" data-verdict="(\w+)" data-source="(\w+)" data-size="(\w+)"', text
    ).groups()


def test_all_claims_hold(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, seed)
    text, head = page(tmp_path)
    assert head == ("replicated", "own", "paper")
    assert "All 17 claims hold at the paper's own size; nothing in them is random" in text.replace(
        "&#39;", "'"
    )
    assert text.count('data-key="holds"') == 17
    assert "Theorem 2" in text
    assert "0.605 to 0.615" in text
    assert "the same in 3 seeds" in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])
    assert data["sections"][0]["measures"]["2"] == GOOD
    # nothing is fetched
    assert not re.search(r'(?:src|href)="(?!https://(?:doi|arxiv)\.org|data:|#)', text)
    assert entry_of(load_target(NAME), tmp_path).verdict.key == "replicated"


def test_a_variants_page_says_which_it_is(tmp_path):
    name = "alphago_zero-no_symmetries_go_5x5"
    text = render(name, out=tmp_path / "page.html", results=tmp_path).read_text()
    assert ", without symmetries, Go on 5x5" in re.search("<title>(.*)</title>", text)[1]
    assert " · without symmetries</p>" in text
    assert load_target(name).variant.description in text


def test_a_claim_that_fails_is_named(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, seed, measures=GOOD | {"row_3_single": 3.2 + seed / 1000})
    text, head = page(tmp_path)
    assert head[0] == "not_replicated"
    assert "Fails: 2 exp(-s^2), degree 9: mean error of the maximum." in text
    row = text[text.index('data-claim="row_3_single"') :].split("</tr>")[0]
    assert 'data-key="fails"' in row
    assert "3.202" in row


def test_what_no_claim_is_about_is_shown_beside_the_claims_where_every_seed_has_it(tmp_path, monkeypatch):
    also = tuple({"measure": name, "statement": f"of {name}"} for name in ("shared", "once", "equal"))
    read = claims_page.also_rows
    monkeypatch.setattr(
        claims_page, "also_rows",
        lambda target, finished: read(replace(target, task=replace(target.task, also=also)), finished),
    )  # fmt: skip
    for seed in (1, 2, 3):
        more = {"shared": seed / 2, "equal": 7.0} | ({"once": 1.0} if seed == 2 else {})
        write_run(tmp_path, seed, measures=GOOD | more)
    text, head = page(tmp_path)
    assert head[0] == "replicated"  # no verdict hangs on them
    rows = re.findall(r"<tr>(.*?)</tr>", text.partition('class="numbers also"')[2].partition("</table>")[0])
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in rows[1:]]
    assert cells == [
        ["of shared", "1", "0.5, 1, 1.5"],
        ["of equal", "7", "the same in 3 seeds"],
    ]
    assert "once" not in text.partition("<script")[0]


def test_smaller_sizes_are_shown_and_do_not_hide_the_papers(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, seed)
        write_run(tmp_path, seed, "smoke")
    text, head = page(tmp_path, asked="paper")
    assert head == ("replicated", "own", "paper")
    assert page(tmp_path)[1] == ("reached", "own", "smoke")  # the newest
    assert 'id="own-smoke"' in text
    assert text.count("<section") == 2
    shutil.rmtree(tmp_path / "double_dqn" / "overestimation" / "paper")
    assert page(tmp_path)[1] == ("reached", "own", "smoke")


def test_seeds_of_different_code_are_not_put_together(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, seed, provenance={"code_sha256": "c" if seed < 3 else "d", "lock_sha256": "l"})
    text, head = page(tmp_path)
    assert head[0] == "not_averaged"
    assert "code fingerprint" in text
    assert "data-claim" not in text


def test_before_and_during_a_run(tmp_path):
    nothing = tmp_path / "nothing"
    text = render(NAME, out=tmp_path / "page.html", results=nothing).read_text()
    assert 'data-verdict="nothing_yet"' in text
    assert "--config budget=smoke" in text
    (nothing / "double_dqn" / "overestimation" / "paper" / "seed1" / "checkpoint").mkdir(parents=True)
    assert (
        'data-verdict="in_progress"' in render(NAME, out=tmp_path / "page.html", results=nothing).read_text()
    )
    for seed in (2, 3, 4):
        write_run(nothing, seed)
    text = render(NAME, out=tmp_path / "page.html", results=nothing).read_text()
    assert 'data-verdict="replicated"' in text
    assert "1 more seed is not finished" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("measures.json", "{", "not valid JSON"),
        ("measures.json", '{"bound_held": 1}', "the claim 'theorem_1_tight' needs the number 'tight_off'"),
        ("points.csv", None, "the file is missing"),
        ("points.csv", "figure,series,x,y\nfigure_1,single,2,nan\n", "not a finite number"),
        ("points.csv", "figure,series,x\nfigure_1,single,2\n", "cannot be read as a table of points"),
        ("run.json", '{"paper": "double_dqn"}', "is a required property"),
    ],
)
def test_damaged_files_are_named_with_a_fix(tmp_path, name, content, message):
    folder = write_run(tmp_path, 1)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=message) as problem:
        page(tmp_path)
    assert name in str(problem.value)
    assert "copy the file again" in str(problem.value)
    assert entry_of(load_target(NAME), tmp_path).problem


def test_stale_results_of_ones_own_give_way_to_recorded_ones_and_are_named(tmp_path, monkeypatch):
    """Measures of an older form of the task: with and without source=recorded, and on the index."""
    own, kept = tmp_path / "results", tmp_path / "kept"
    folder = write_run(own, 1, measures={"bound_held": 1.0})
    for seed in (1, 2, 3):
        write_run(kept, seed)
    both = {"own": own / "double_dqn" / "overestimation", "recorded": kept / "double_dqn" / "overestimation"}
    monkeypatch.setattr(runs, "roots", lambda target, results: both)
    monkeypatch.setattr(
        claims_page, "measured_again", lambda target, runs: {"ok": True, "sentence": "Checked."}
    )
    for source in ("own", "recorded"):
        text, head = page(tmp_path, source=source)
        assert head == ("replicated", "recorded", "paper")
        assert text.count("<section") == 1
        note = re.search(r"<li>(Your own run .*?)</li>", text)[1]
        assert "results/double_dqn/overestimation/paper/seed1 is left out" in note
        assert "needs the number &#39;tight_off&#39;; copy the file again" in note
        assert str(folder) in note
    entry = entry_of(load_target(NAME), tmp_path)
    assert (entry.verdict.key, entry.source, entry.problem) == ("replicated", "recorded", None)
    # a size that can be read stays on the page
    write_run(own, 1, "smoke")
    assert 'id="own-smoke"' in page(tmp_path)[0]
    shutil.rmtree(own / "double_dqn" / "overestimation" / "paper")
    assert "is left out" not in page(tmp_path)[0]
    # damaged recorded ones are an error, and so are one's own without anything else to show
    (kept / "double_dqn" / "overestimation" / "paper" / "seed2" / "points.csv").unlink()
    with pytest.raises(UserError, match=r"points\.csv: the file is missing"):
        page(tmp_path)


def test_a_claim_about_a_factor_is_judged_on_a_scale_of_factors(tmp_path):
    """2, 4 and 8 are 4, give or take a factor of 5.6; their plain mean is 4.7, give or take 7.6."""
    target = load_target(NAME)
    found = [runs.read_run(write_run(tmp_path, seed), "own", target) for seed in (1, 2, 3)]
    claim = replace(target.task.claims[0], measure="ratio", at_least=0.5, at_most=None, factor=True)
    found = [replace(run, measures={"ratio": 2.0**run.seed}) for run in found]
    (judged,) = judge_claims(replace(target, task=replace(target.task, claims=(claim,))), found)
    assert judged.key == "holds"


def test_small_numbers_are_powers_of_ten():
    assert [number(v) for v in (2.5e-9, -1e-12, 0.0, 0.605)] == [
        "2.5 \u00d7 10\u207b\u2079", "\u22121.0 \u00d7 10\u207b\u00b9\u00b2", "0", "0.605",
    ]  # fmt: skip


def test_a_run_of_another_task_is_refused(tmp_path):
    write_run(tmp_path, 1, task="corridor")
    with pytest.raises(UserError, match="at task: 'corridor', but its folder says 'overestimation'"):
        page(tmp_path)


def test_medians_bands_and_log_axes(tmp_path):
    found = []
    for seed in (1, 2, 3):
        found.append(runs.read_run(write_run(tmp_path, seed), "own", load_target(NAME)))
    found[2].points["figure_1", "double"][1024.0] *= 10  # far out
    curves = claims_page.curves_of("figure_1", found)
    assert curves["single"] == [(2.0, 4.0, 2.0, 6.0), (4.0, 8.0, 4.0, 12.0), (1024.0, 2048.0, 1024.0, 3072.0)]
    assert curves["double"] == [*curves["single"][:2], (1024.0, 2048.0, 1024.0, 30_720.0)]
    svg = draw({"title": "T", "x": "x", "y": "y", "log_x": True, "log_y": True}, curves)
    marks = re.search(r'<path class="curve s1" d="M([^"]*)"', svg)[1].split("L")
    places = [[float(v) for v in mark.split()] for mark in marks]
    # 2 to 4 is a ninth of the way from 2 to 1024 on a logarithmic axis; up is less
    assert (places[1][0] - places[0][0]) / (places[2][0] - places[0][0]) == pytest.approx(1 / 9, abs=0.002)
    assert (places[1][1] - places[0][1]) / (places[2][1] - places[0][1]) == pytest.approx(1 / 9, abs=0.005)
    assert places[2][1] < places[0][1]
    assert svg.count('class="spread') == 2
    assert ">1 k<" in svg


def test_a_recorded_page_runs_one_seed_again(tmp_path, monkeypatch):
    from replications.double_dqn import overestimation as script

    settings = papers.resolve("double_dqn", None, "overestimation", "smoke").settings
    measures = script.experiment(script.Config(**settings), 1).measures
    folder = write_run(tmp_path, 1, "smoke", measures=measures)
    monkeypatch.setattr(
        runs,
        "roots",
        lambda target, results: {
            "own": results / "own",
            "recorded": results / "double_dqn" / "overestimation",
        },
    )
    text, head = page(tmp_path, source="recorded")
    assert head == ("too_short" if "Fails" in text else "reached", "recorded", "smoke")
    assert "seed 1 was run again" in text
    assert f"All {len(measures)} measures came out exactly as recorded" in text
    (folder / "measures.json").write_text(
        json.dumps(measures | {"single_largest": measures["single_largest"] * 2})
    )
    assert (
        f"1 of {len(measures)} measures differ from the recorded ones, by 0.5 of their value"
        in page(tmp_path, source="recorded")[0]
    )
    shutil.rmtree(tmp_path / "double_dqn")
    with pytest.raises(UserError, match="no recorded run of double_dqn_overestimation"):
        page(tmp_path, source="recorded")


def test_a_measure_that_could_not_be_taken_leaves_its_claim_open(tmp_path):
    taken = {name: value for name, value in GOOD.items() if name != "double_mean"}
    known = {"code_sha256": "c", "lock_sha256": "l"}
    for seed in (1, 2):
        write_run(tmp_path, seed)
    write_run(
        tmp_path, 3, measures=taken, provenance=known | {"undecided": {"double_mean": "it has 2 cores"}}
    )
    text, head = page(tmp_path)
    assert head[0] == "undecided"
    assert "16 of 17 claims hold" in text
    assert "or they could not be measured" in text
    row = text[text.index('data-claim="double_unbiased"') :].split("</tr>")[0]
    assert 'data-key="open"' in row
    assert "not measured: it has 2 cores" in row
    assert "nan" not in row
    shutil.rmtree(tmp_path / "double_dqn" / "overestimation" / "paper" / "seed3")
    write_run(tmp_path, 3, measures=taken, provenance=known | {"undecided": {"other": "why"}})
    text = page(tmp_path)[0]
    assert "paper/seed3 is left out" in text
    assert "needs the number &#39;double_mean&#39;" in text


def test_what_is_shown_beside_claims_is_in_the_recorded_runs():
    """A name that no run has would be left out without a word."""
    seen = set()
    for file in papers.REPLICATIONS.glob("*/recorded/*/*/paper/seed1/measures.json"):
        paper, _, variant, task = file.parts[-7:-3]
        found = papers.load_paper(paper).variants["" if variant == "base" else variant].tasks[task].also
        assert {also["measure"] for also in found} <= set(json.loads(file.read_text())), file
        seen |= {also["measure"] for also in found}
    assert {"early_won", "lines_search", "mistakes_no_search"} <= seen
