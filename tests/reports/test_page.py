"""The page from synthetic run folders: numbers, verdicts and states on it, hostile content, and that it asks for
nothing outside.
"""

import base64
import csv
import json
import math
import os
from pathlib import Path

import pytest

import common.evaluation.protocol
from common import papers
from common.errors import UserError
from common.evaluation.statistics import published_ratio, seed_interval
from common.evaluation.video import frame_count
from reports import render as render_module
from reports.charts import PictureRow, Scale, picture, ticks
from reports.curves import series_of, thin
from reports.files import read_curve
from reports.reference import reference_of
from reports.render import write
from reports.runs import find_runs
from reports.section import resolved_for
from reports.target import load_target
from reports.words import duration, plain_value, short_count
from tests.reports.pages import (
    CURVE,
    PAPER_FRAMES,
    PUBLISHED_CSV,
    Reader,
    curve_rows,
    edit,
    film,
    page,
    target_of,
    write_progress,
    write_run,
)  # fmt: skip

WHO = ("Ours", "The paper", "Human", "Random play")


# --- verdicts and numbers -------------------------------------------------------------------------------------------


def test_one_seed_at_the_hour(toy):
    write_run(toy, mean=18.53, spread=2.0)
    p = page(toy)
    assert (p.html["data-verdict"], p.html["data-source"], p.html["data-size"]) == ("reached", "own", "hour")
    assert "After 1.0 % of the paper's training this agent scores" in p.words
    assert "standard errors 0.4" in p.words
    section = p.data["sections"][0]
    assert section["g"]["value"] == pytest.approx((18.53 + 20.7) / 39.6)
    assert section["human_normalised"] == pytest.approx((18.53 + 20.7) / 30)
    assert section["fraction_of_paper_frames"] == 0.01
    rows = {who: next(row for row in p.table("scores") if row[0].startswith(who)) for who in WHO}
    assert rows["Ours"][1:3] == ["18.5", "131 %"]  # the episodes' standard error is 0.37
    assert rows["The paper"][1] == "18.9 ± 1.3"
    assert rows["The paper"][2] == "132 %"
    assert "standard error 0.5 over its 7 episodes" in rows["The paper"][0]
    assert rows["Human"][1:3] == ["9.3", "100 %"]
    assert rows["Random play"][1:3] == ["\u221220.7", "0 %"]
    assert "It begins to learn." in p.words


@pytest.mark.parametrize(
    ("means", "key"),
    [
        ((18.0, 18.5, 19.0), "replicated"),
        ((10.0, 10.5, 11.0), "not_replicated"),
        ((12.0, 15.0, 18.0), "undecided"),
        ((18.0, 18.5), "reached"),
        ((-20.0,), "not_reached"),
    ],
)
def test_verdict_at_the_papers_length(toy, means, key):
    for seed, mean in enumerate(means, start=1):
        write_run(toy, size="paper", seed=seed, mean=mean, frames=PAPER_FRAMES)
    p = page(toy)
    assert p.html["data-verdict"] == key
    assert p.data["sections"][0]["score"]["mean"] == pytest.approx(sum(means) / len(means))
    assert p.data["sections"][0]["seed_scores"] == {
        str(i): pytest.approx(m) for i, m in enumerate(means, start=1)
    }


def test_score_is_rounded_to_its_interval(toy):
    for seed, mean in enumerate((18.2, 18.5, 18.9), start=1):
        write_run(toy, size="paper", seed=seed, mean=mean, frames=PAPER_FRAMES)
    # 4.3027 * 0.35119 / sqrt(3) = 0.872
    p = page(toy)
    assert p.table("scores")[1][1] == "18.5 ± 0.9"
    # the printed score has an error too, 1.3 over its 7 episodes
    g = published_ratio(seed_interval([18.2, 18.5, 18.9]), 18.9, -20.7, 1.3, 7)
    assert p.data["sections"][0]["g"] == pytest.approx({"value": g.value, "low": g.low, "high": g.high})


def test_not_testable_and_no_published(toy):
    write_run(toy, task="montezuma", mean=0.0, spread=0.0, extra=[0.0] * 5)
    p = page(toy, "montezuma")
    assert p.html["data-verdict"] == "not_testable"
    for seed in range(1, 6):
        write_run(
            toy,
            task="cartpole",
            seed=seed,
            scores=[500.0] * 29 + [500.0 if seed > 1 else 410.0],
            provenance={"rom_sha256": None},
        )
    p = page(toy, "cartpole")
    assert p.html["data-verdict"] == "no_published"
    assert "5 of 5 reach 475, a bar of our own" in p.words
    assert "not in the paper" in p.words


def test_variant_without_a_published_row(toy):
    write_run(
        toy,
        variant="slow",
        settings={"training_steps": 10_000, "learning_rate": 0.0001, "target_period": 10_000},
    )
    p = page(toy, variant="slow")
    assert p.html["data-verdict"] == "no_published"
    assert "the ablation" in p.words.lower()
    assert "<title>TOY (2015), slower, " in p.raw


def test_stopped_early_is_not_the_papers_length(toy):
    for seed in (1, 2, 3):
        settings = {"training_steps": PAPER_FRAMES // 4, "learning_rate": 0.00025, "target_period": 10_000}
        write_run(toy, size="paper", seed=seed, mean=18.9, frames=PAPER_FRAMES - 4, settings=settings)
    assert page(toy).html["data-verdict"] == "reached"


# --- states and sizes
# ----------------------------------------------------------------------------------------------------


def test_nothing_yet(toy):
    p = page(toy)
    assert p.html["data-verdict"] == "nothing_yet"
    assert "./run snakemake reports/toy_pong.html --config budget=hour" in p.words
    assert "Four days; one night." in p.words
    (toy / "results/toy/pong/hour/seed1").mkdir(parents=True)  # an empty folder is nothing either
    assert page(toy).html["data-verdict"] == "nothing_yet"


@pytest.mark.parametrize("state", ["training", "evaluating", "stopped", "failed"])
def test_in_progress(toy, state):
    write_progress(toy, state=state, curve="\n".join(curve_rows(20_000, 0.0)) + "\n9,")
    p = page(toy)
    assert p.html["data-verdict"] == ("failed" if state == "failed" else "in_progress")
    assert f"{state}, 2,500 of 10,000 agent steps, 50 steps/s" in p.words
    assert ("about 2 min left" in p.words) == (state == "training")
    assert ("progress", "0.2500") in [(tag, a.get("value")) for tag, a in p.tags]
    assert len(p.data["sections"][0]["charts"][0]["series"][0]["x"]) == 20


def test_in_progress_without_any_log_yet(toy):
    write_progress(toy, status=False)
    assert page(toy).html["data-verdict"] == "in_progress"
    write_progress(toy, seed=2, curve="")
    write_progress(toy, seed=3, curve=CURVE + "\n")
    assert page(toy).html["data-verdict"] == "in_progress"


def test_trained_but_not_evaluated(toy):
    (write_run(toy, weights=True) / "evaluation.json").unlink()
    p = page(toy)
    assert p.html["data-verdict"] == "in_progress"
    assert "python -m common.runs.evaluate results/toy/pong/hour/seed1" in p.words


def test_without_its_weights_a_run_is_not_to_be_evaluated_here(toy, capsys, monkeypatch):
    """They may stay behind where results are copied; the terminal names the seed."""
    monkeypatch.setattr(render_module, "load_target", lambda name: target_of(toy))
    write_run(toy)
    folder = write_run(toy, seed=2)
    (folder / "evaluation.json").unlink()
    words = page(toy).words
    assert "neither its evaluation.json nor its weights are here" in words
    assert "common.runs.evaluate" not in words
    render_module.render("toy_pong", results=toy / "results")
    said = capsys.readouterr().err
    assert "warning: toy_pong: seed 2 is not among the scores: trained, and neither" in said
    assert "common.runs.evaluate" not in said
    (folder / "model.safetensors").touch()
    render_module.render("toy_pong", results=toy / "results")
    assert (
        "evaluate it: ./run python -m common.runs.evaluate results/toy/pong/hour/seed2"
        in capsys.readouterr().err
    )


def test_a_damaged_run_alone_is_left_out_and_the_terminal_names_it(toy, capsys):
    write_run(toy, recorded=True)
    for seed in (1, 2, 3):
        write_run(toy, seed=seed)
    (toy / "results/toy/pong/hour/seed2/curve.csv").write_text("")
    p = page(toy)
    assert p.html["data-source"] == "own"
    assert list(p.data["sections"][0]["seed_scores"]) == ["1", "3"]
    said = "results/toy/pong/hour/seed2/curve.csv: the file is empty; copy the file again from where the run was made"
    assert said in p.words
    assert "Your own run results/toy/pong/hour/seed2 is left out: " in p.words
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("warning: Your own run")


def test_unfinished_seed_stays_out_of_the_verdict(toy):
    write_run(toy, seed=1)
    write_progress(toy, seed=2, curve="\n".join(curve_rows(20_000, 0.0)) + "\n")
    p = page(toy)
    assert p.html["data-verdict"] == "reached"
    assert "1 more seed is not finished, so not in this verdict" in p.words
    names = [s["name"] for s in p.data["sections"][0]["charts"][0]["series"]]
    assert names[:2] == ["seed 1", "seed 2 (training)"]


def test_opens_on_the_longest_finished_size(toy):
    write_run(toy, size="smoke", mean=-20.0, frames=2000)
    write_run(toy, size="hour", mean=0.0, frames=40_000)
    write_run(toy, size="frames-80000", mean=5.0, frames=80_000)
    write_progress(toy, size="paper")
    write_run(toy, size="hour", mean=1.0, frames=40_000, recorded=True)
    p = page(toy)
    assert (p.html["data-source"], p.html["data-size"]) == ("own", "frames-80000")
    ids = [s["id"] for s in p.data["sections"]]
    assert ids == ["own-frames-80000", "own-hour", "recorded-hour", "own-smoke", "own-paper"]
    assert [link for link in p.links if link.startswith("#")] == [f"#{i}" for i in ids]
    assert "80 k frames" in p.words
    write_run(toy, size="paper", mean=18.0, frames=PAPER_FRAMES, recorded=True)
    p = page(toy)
    assert (p.html["data-source"], p.html["data-size"]) == ("recorded", "paper"), (
        "a smoke run never hides a three-day run"
    )


# --- runs that must not be averaged -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"provenance": {"code_sha256": "beef" * 16}}, "code fingerprint"),
        ({"provenance": {"lock_sha256": "beef" * 16}}, "dependency lock"),
        ({"provenance": {"rom_sha256": "beef" * 16}}, "ROM checksum"),
        (
            {"settings": {"training_steps": 10_000, "learning_rate": 1.0, "target_period": 10_000}},
            "setting learning_rate",
        ),
        ({"protocol": {"epsilon": 0.001}}, "evaluation epsilon"),
        ({"protocol": {"max_frames": 108_000}}, "evaluation max_frames"),
        ({"protocol": {"noop_max": 0}}, "evaluation noop_max"),
        ({"protocol": {"weights": "last"}}, "evaluation weights"),
    ],
)
def test_different_runs_are_not_averaged(toy, change, what):
    write_run(toy, seed=1, mean=10.0)
    write_run(toy, seed=2, mean=20.0)
    write_run(toy, seed=3, mean=20.0, **change)
    p = page(toy)
    assert p.html["data-verdict"] == "not_averaged"
    assert p.data["sections"][0]["score"] is None
    rows = p.table("differences")
    assert rows[1][0] == what
    assert "results/toy/pong/hour/seed3" in rows[2][2]
    assert [row[0].split(" mean")[0] for row in p.table("scores")[1:4]] == [
        "Ours, seed 1",
        "Ours, seed 2",
        "Ours, seed 3",
    ]
    series = [s["name"] for s in p.data["sections"][0]["charts"][0]["series"]]
    assert not any("mean" in name for name in series), "a mean curve would be an average too"


def test_what_was_asked_for_comes_first_and_the_rest_beside_it(toy, monkeypatch, capsys):
    monkeypatch.setattr(render_module, "load_target", lambda name: target_of(toy))
    write_run(toy, size="paper", mean=18.0, frames=PAPER_FRAMES, recorded=True)
    write_run(toy, size="hour", mean=5.0)
    write_run(toy, size="smoke", mean=-19.0, frames=2000)
    for size in ("hour", "smoke"):
        os.utime(toy / "results/toy/pong" / size / "seed1/run.json", (9e8, 9e8 + (size == "hour")))

    def opens_on(**how):
        out = render_module.render("toy_pong", out=toy / "page.html", results=toy / "results", **how)
        return [s["id"] for s in Reader(out.read_text()).data["sections"]]

    beside = ["recorded-paper", "own-hour"]
    assert opens_on(asked="smoke") == ["own-smoke", *beside]
    printed = capsys.readouterr().out
    assert "toy_pong, own, smoke: too short to judge. After 0.05 % of the paper's training" in printed
    assert printed.splitlines()[-1] == f"page: {toy / 'page.html'}"
    assert opens_on() == ["own-hour", "recorded-paper", "own-smoke"]  # the newest of one's own
    assert opens_on(asked="frames-40") == [*beside, "own-smoke"]  # there is none of it
    monkeypatch.setattr(render_module, "check", lambda target, section: None)
    assert opens_on(source="recorded", asked="smoke") == ["recorded-paper", "own-smoke", "own-hour"]


# --- recorded
# -----------------------------------------------------------------------------------------------------------


def replayed(identical):
    def replay(folder, episodes=10):
        assert (folder / "model.safetensors").is_file()
        assert episodes == 10
        return {
            "replayed": 10,
            "identical": identical,
            "recorded_mean": 18.4,
            "replayed_mean": 17.9,
            "seconds": 12.0,
            "device": "cpu",
        }

    return replay


def test_recorded_page_replays_ten_episodes(toy, monkeypatch):
    write_run(toy, size="smoke", mean=18.0, frames=2000, recorded=True)
    write_run(toy, size="paper", seed=1, mean=18.0, frames=PAPER_FRAMES, recorded=True)
    write_run(toy, size="paper", seed=2, mean=18.4, frames=PAPER_FRAMES, recorded=True, weights=True)
    write_run(toy, size="paper", seed=3, mean=18.8, frames=PAPER_FRAMES, recorded=True)
    monkeypatch.setattr(common.evaluation.protocol, "replay_recorded", replayed(10))
    p = page(toy, source="recorded")
    assert (p.html["data-verdict"], p.html["data-source"], p.html["data-size"]) == (
        "replicated",
        "recorded",
        "paper",
    )
    assert "All 10 gave exactly the recorded score" in p.words
    assert "10 recorded episodes of seed 2" in p.words
    assert "--config source=recorded" in p.words
    monkeypatch.setattr(common.evaluation.protocol, "replay_recorded", replayed(7))
    p = page(toy, source="recorded")
    assert "7 of 10 gave exactly the recorded score (recorded mean 18.40, replayed mean 17.90)" in p.words
    assert "Floating-point" in p.words


def test_recorded_without_weights_or_without_anything(toy):
    with pytest.raises(UserError, match="no recorded run of toy_pong in replications/toy/recorded/base/pong"):
        page(toy, source="recorded")
    write_run(toy, recorded=True)
    assert "No weights were kept" in page(toy, source="recorded").words
    assert page(toy).html["data-source"] == "recorded"


def test_with_recorded_results_asked_for_damaged_ones_of_ones_own_do_not_matter(toy, monkeypatch):
    write_run(toy, recorded=True, weights=True)
    (write_run(toy) / "run.json").write_text("{")
    monkeypatch.setattr(common.evaluation.protocol, "replay_recorded", replayed(10))
    p = page(toy, source="recorded")
    assert (p.html["data-verdict"], p.html["data-source"]) == ("reached", "recorded")
    assert [s["id"] for s in p.data["sections"]] == ["recorded-hour"]
    assert "Your own run results/toy/pong/hour/seed1 is left out: " in p.words
    assert "results/toy/pong/hour/seed1/run.json: not valid JSON" in p.words
    p = page(toy)
    assert (p.html["data-source"], len(p.data["sections"])) == ("recorded", 1)
    assert "results/toy/pong/hour/seed1/run.json: not valid JSON" in p.words
    (toy / "replications/toy/recorded/base/pong/hour/seed1/run.json").write_text("{")
    with pytest.raises(UserError, match=r"recorded/base/pong/hour/seed1/run\.json.*git checkout"):
        page(toy, source="recorded")


# --- what stands beside the numbers -----------------------------------------------------------------------------------


def test_constants_deviations_protocol_cost_provenance(toy):
    settings = {"training_steps": 10_000, "learning_rate": 0.001, "target_period": 10_000, "gone": 3}
    write_run(toy, settings=settings, provenance={"diff_sha256": "d1ff" * 16})
    p = page(toy)
    rows = {row[0].split(" ")[0]: row for row in p.table("constants")[1:]}
    assert set(rows) == {"Target", "Kernels"}  # a deviation stands once, in its own list
    assert rows["Target"][1:3] == ["40,000", "10,000 agent steps"]
    assert rows["Kernels"][1:3] == ["32", "32"]
    assert "Another emulator" in p.words
    assert (
        "Training length: 10,000 instead of 1,000,000 agent steps. An hour is short. Source: Table 1. Set by budget."
        in p.words
    )
    assert "Learning rate: 0.001 instead of 0.00025" in p.words
    assert p.words.count("An hour is short.") == 1
    assert "a setting that the code no longer has: gone = 3. " in p.words
    assert "18,000 frames (5 minutes of play)" in p.words
    assert "those with the best evaluation phase during training (agent step 10 k)" in p.words
    cost = next(t["rows"] for t in p.tables if t["caption"].startswith("Wall-clock"))[1]
    assert cost[:10] == ["1", "40 k", "10 k", "2.5 k", "260", "50 min", "2", "160", "2.1 GB", "2 min"]
    facts = {row[0]: row[1] for t in p.tables if t["class"] == "facts" for row in t["rows"]}
    assert facts["Commit"] == "1234abcd" * 5
    assert facts["Code fingerprint"] == ("c0de" * 16)[:16]
    assert facts["Uncommitted changes (SHA-256)"] == ("d1ff" * 16)[:16]
    assert facts["Hardware"] == "A CPU, 2 cores, 23.5 GB memory"
    assert facts["Deterministic algorithms"] == "yes"
    assert "git checkout " + "1234abcd" * 5 in p.words
    assert "./run snakemake reports/toy_pong.html --config budget=hour seeds=1" in p.words
    assert "python -m replications.toy.train --task pong --seed 1 --budget hour" in p.words
    assert "@article{toy, title={A toy}}" in p.words
    assert "https://doi.org/10.1/toy" in p.links


def test_what_a_repetition_leaves_out_is_said(toy):
    folder = write_run(toy)
    command = "./run snakemake reports/toy_pong.html --config budget=hour seeds=1"
    repeat = page(toy).words.split("Repeat exactly this")[1]
    assert repeat.split("The command")[0].split() == ["git", "checkout", "1234abcd" * 5, *command.split()]
    provenance = json.loads((folder / "run.json").read_text())["provenance"]
    edit(folder / "run.json", provenance=provenance | {"diff_sha256": "d1ff" * 16})
    assert "changed and not committed (SHA-256 of the changes: d1ffd1ffd1ffd1ff)" in page(toy).words
    settings = {"training_steps": 10_000, "learning_rate": 0.5, "target_period": 10_000}
    edit(folder / "run.json", provenance=provenance, settings=settings)
    assert "Settings were given on the command line: use the command of each run" in page(toy).words
    write_run(toy, seed=2, settings=settings, provenance={"commit": "ffff" * 10})
    words = page(toy).words
    assert f"The seeds were trained at different commits: {'1234abcd' * 5}, {'ffff' * 10}" in words
    assert "git checkout" not in words
    # nothing from a file becomes a line, that is a command, of its own
    edit(folder / "run.json", provenance=provenance | {"commit": "a\nrm -rf b", "diff_sha256": "c\nrm -rf d"})
    assert not any(
        line.startswith("rm") for line in page(toy).raw.split("Repeat exactly this")[1].splitlines()
    )


def test_fewer_episodes_than_the_protocol_are_said(toy):
    write_run(toy, scores=[18.0, 19.0], extra=[])
    p = page(toy)
    assert "Evaluated on 2 of the protocol's 30 episodes." in p.words
    assert "2 (the protocol asks for 30)" in p.words


@pytest.mark.parametrize(
    ("score_of", "ended", "who", "note"),
    [
        ({"kind": "last_100_episodes", "episodes": 100}, 900, "mean of the last 100 training episodes", None),
        (
            {"kind": "last_100_episodes", "episodes": 37},
            37,
            "mean of the last 37 training episodes",
            "The score is the mean of the last 37 training episodes: fewer than the protocol's 100 had ended.",
        ),
        (
            {"kind": "evaluation_mean", "episodes": 30},
            0,
            "mean of 30 episodes",
            "The score is the mean of 30 evaluation games: no training episode had ended, and the protocol asks for 100.",
        ),
        # evaluations of before they said so: by the training's own count
        (None, 900, "mean of the last 100 training episodes", None),
        (None, 37, "mean of the last 37 training episodes", "fewer than the protocol's 100 had ended"),
        (None, 0, "mean of 30 episodes", "no training episode had ended"),
    ],
)
def test_a_score_of_fewer_training_episodes_than_the_protocols_says_so(toy, score_of, ended, who, note):
    folder = write_run(toy, protocol={"score": "last_100_episodes"})
    edit(folder / "evaluation.json", score_of=score_of) if score_of else None
    progress = json.loads((folder / "run.json").read_text())["progress"] | {"episodes": ended}
    edit(folder / "run.json", progress=progress)
    p = page(toy)
    assert p.table("scores")[1][0].endswith(who)
    assert (note in p.words) if note else ("had ended" not in p.words)


def test_a_score_of_the_training_has_the_spread_of_its_training_episodes(toy):
    """Of its own 100 episodes, 19 +- 1, not of the games played after training, 0 +- 20."""
    folder = write_run(
        toy, scores=[-20.0, 20.0] * 15, extra=[], protocol={"score": "last_100_episodes"}, video=film(9)
    )
    edit(folder / "evaluation.json", score=19.0, score_of={"kind": "last_100_episodes", "episodes": 100})
    rows = [f"{i},{i},{4 * i},{0 if i <= 150 else 18 + 2 * (i % 2)},9" for i in range(1, 251)]
    (folder / "episodes.csv").write_text("\n".join(["episode,agent_steps,frames,score,length", *rows]) + "\n")
    p = page(toy)
    values = [text for text in p.text if text.startswith("19.0")]
    assert values == [
        "19.00 ± 1.01",
        "19.00",
    ]  # the picture's and the table's, to the digits of 1.005 / sqrt(100)
    assert "These games were played after training; the score is of the training itself." in p.words
    assert "the episodes of the score" not in p.words
    assert "Of the evaluation\u2019s games, seed 1" in p.words
    assert "after training, not in the score" in p.words
    # without them, or where they are not what the score was made of, there is no spread to tell
    (folder / "episodes.csv").write_text(
        "\n".join(["episode,agent_steps,frames,score,length", *rows[:-1]]) + "\n"
    )
    assert not any(text.startswith("19") and "±" in text for text in page(toy).text)
    (folder / "episodes.csv").unlink()
    assert not any(text.startswith("19") and "±" in text for text in page(toy).text)


def test_the_mean_of_seeds_measured_at_places_of_their_own_is_linear_between_them(toy):
    """As of workers that learn at the same time: no x is shared."""
    curves = [
        ("seed 1", [0, 10, 20], [0.0, 10.0, 20.0]),
        ("seed 2", [1, 11, 21, 22], [2.0, 22.0, 42.0, 44.0]),
        ("seed 3", [2, 12, 24], [6.0, 36.0, 72.0]),
    ]
    mean = series_of(curves)[3]
    assert mean.name == "mean of 3 seeds, linear between their points"
    assert mean.xs == [2, 10, 20]  # from where all have begun to where the first one ends
    assert mean.ys == pytest.approx([2 * 2, 10 * 2, 20 * 2])  # the slopes are 1, 2 and 3
    expected = seed_interval([10.0, 20.0, 30.0])
    assert (mean.low[1], mean.high[1]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    hours = [(name, xs, ys, [x / 10 for x in xs]) for name, xs, ys in curves]
    assert series_of(hours)[3].hours == pytest.approx([0.2, 1.0, 2.0])
    assert len(series_of([*curves[:2], ("seed 3", [2, 12, 24], [6.0, None, 72.0])])) == 3, (
        "a gap is not bridged"
    )
    assert len(series_of([("a", [0, 1], [0.0, 1.0]), ("b", [5, 6], [0.0, 1.0])])) == 2


def test_a_constant_that_the_paper_does_not_give_is_said_so(toy):
    text = (toy / "replications/toy/paper.yaml").read_text()
    given = "{name: learning rate, field: learning_rate, paper: 0.00025, unit: per update, source: Table 1}"
    assert given in text
    missing = "{name: learning rate, field: learning_rate, paper: null, ours: 0.00025, unit: per update, source: none, reason: usual}"
    (toy / "replications/toy/paper.yaml").write_text(text.replace(given, missing))
    write_run(toy)
    assert "Learning rate: 0.00025 per update, which the paper does not say. Usual." in page(toy).words


def test_seeds_whose_scores_are_of_different_length_are_told_apart(toy):
    for seed, episodes in ((1, 100), (2, 37), (3, 37)):
        folder = write_run(toy, seed=seed, protocol={"score": "last_100_episodes"})
        edit(folder / "evaluation.json", score_of={"kind": "last_100_episodes", "episodes": episodes})
    p = page(toy)
    assert "The score of seeds 2, 3 is the mean of the last 37 training episodes: fewer" in p.words
    assert (
        "of seed 1 the mean of the last 100 training episodes; of seed 2 the mean of the last 37" in p.words
    )


def test_extra_episodes_tell_the_noise(toy):
    write_run(toy, scores=[10.0, 20.0] * 15, extra=[8.0, 18.0] * 50)
    p = page(toy)
    # sd 5.085 / sqrt(30) = 0.93; sd 5.025 / sqrt(100) = 0.50
    assert "average 15.0, 100 further ones of the same weights 13.0 (standard errors 0.9 and 0.5)" in p.words
    dots = [a["d"] for tag, a in p.tags if tag == "path" and a.get("class") == "dots"]
    assert [d.count("M") for d in dots] == [30, 100]


def test_curves_carry_the_published_line_and_the_mean(toy):
    for seed in (1, 2):
        write_run(
            toy,
            seed=seed,
            curve=[CURVE, f"100,400,1,1,1,{seed},3,,,,", f"200,800,2,2,.5,{seed * 3},3,,0.5,,"],
        )
    p = page(toy)
    charts = {c["title"]: c for c in p.data["sections"][0]["charts"]}
    main = charts["Evaluation score during training"]
    assert main["lines"][0] == {"name": "the paper's score", "css": "paper", "value": 18.9, "outside": True}
    assert [s["name"] for s in main["series"]] == ["seed 1", "seed 2", "mean of 2 seeds"]
    assert main["series"][2] == {"name": "mean of 2 seeds", "css": "mean", "x": [400, 800], "y": [1.5, 4.5]}
    assert set(charts) == {"Evaluation score during training", "Loss", "Exploration: epsilon"}, (
        "empty columns draw no chart"
    )
    assert ["800", "3.00", "6.00"] in [row for t in p.tables for row in t["rows"]]
    stills = [a for tag, a in p.tags if tag == "svg" and a.get("class") == "still"]
    assert len(stills) == 3


def test_three_seeds_have_a_band(toy):
    for seed in (1, 2, 3):
        write_run(
            toy, seed=seed, curve=[CURVE, f"100,400,1,1,1,{seed},3,,,,", f"200,800,2,2,.5,{seed * 3},3,,,,"]
        )
    mean = page(toy).data["sections"][0]["charts"][0]["series"][3]
    assert (mean["css"], mean["x"], mean["y"], mean["band"]) == ("mean", [400, 800], [2, 6], "95 % interval")
    expected = seed_interval([3.0, 6.0, 9.0])
    assert (mean["lo"][1], mean["hi"][1]) == (
        pytest.approx(expected.low, 1e-4),
        pytest.approx(expected.high, 1e-4),
    )
    # a seed that is still running is in no average
    write_progress(toy, seed=4, curve="\n".join([CURVE, "100,400,1,1,1,99,3,,,,"]) + "\n")
    assert page(toy).data["sections"][0]["charts"][0]["series"][4]["y"] == [2, 6]


def test_hours_beside_frames(toy):
    for seed in (1, 2):
        rows = [f"100,400,1,1,1,{seed},3,,,,", "200,800,2,2,.5,5,3,,,,"]
        folder = write_run(toy, seed=seed, curve=[CURVE, *rows])
        clock = ["agent_steps,seconds,steps_per_second", f"100,{1800 * seed},1", f"200,{3600 * seed},1"]
        (folder / "timing.csv").write_text("\n".join([*clock, f"200,{9999 * seed},1"]) + "\n")
    p = page(toy)
    series = p.data["sections"][0]["charts"][0]["series"]
    assert [s["h"] for s in series] == [[0.5, 1], [1, 2], [0.75, 1.5]]
    assert any(a.get("data-x") == "h" for _, a in p.tags)
    assert not any(c["title"] == "Hours" for c in p.data["sections"][0]["charts"])
    for seed in (1, 2):
        (toy / f"results/toy/pong/hour/seed{seed}/timing.csv").write_text("torn\n1")
    p = page(toy)  # a clock only informs
    assert "h" not in p.data["sections"][0]["charts"][0]["series"][0]
    assert not any(a.get("data-x") == "h" for _, a in p.tags)


REFERENCE = """paper,game,metric,value,stdev,protocol,source
dopamine_baselines,pong,dqn_1Mframes,-20,1,train_return_sticky0.25_5seeds,x
dopamine_baselines,pong,dqn_2Mframes,-10,3,train_return_sticky0.25_5seeds,x
dopamine_baselines,pong,dqn_5Mframes,0,4,train_return_sticky0.25_5seeds,x
dopamine_baselines,alien,dqn_1Mframes,300,9,train_return_sticky0.25_5seeds,x
"""


def test_reference_curve_is_named_as_what_it_is(toy):
    (toy / "replications/toy/reference_curves.csv").write_text(REFERENCE)
    write_run(toy, size="hour", frames=1_600_000)
    write_run(toy, size="smoke", frames=2000)
    p = page(toy)
    hour, smoke = (s["charts"][0] for s in p.data["sections"])
    reference = hour["series"][-1]
    assert reference["name"] == "Dopamine's DQN, another protocol"
    assert (reference["x"], reference["y"]) == (
        [1_000_000, 2_000_000],
        [-20, -10],
    )  # as far as the run, and the next
    assert (reference["lo"], reference["hi"], reference["band"]) == ([-21, -13], [-19, -7], "± sd")
    assert [s["css"] for s in smoke["series"]] == ["s1"], "nothing to compare a smoke run with"
    assert p.words.count("the verdict does not use it") == 1
    reference = reference_of(toy / "replications/toy", "pong")
    assert reference.at(1_500_000) == (-15, 2)
    assert reference.course(1_500_000, -14).startswith(
        "on the reference course: \u221214.0 beside \u221215.0 ± 2.0"
    )
    assert reference.course(1_500_000, -12.9).startswith("above")
    assert reference.course(1_500_000, -17.1).startswith("below")
    assert "it starts at 1 million frames" in reference.course(500_000, 0)
    assert reference_of(toy / "replications/toy", "seaquest") is None
    (toy / "replications/toy/reference_curves.csv").write_text(REFERENCE.replace("dqn_2M", "dqn2M"))
    with pytest.raises(UserError, match=r"reference_curves\.csv, line 3: .*git checkout"):
        page(toy)


def test_shipped_reference_curves_are_read_for_every_game_of_the_paper():
    paper = papers.load_paper("dqn")
    games = [task.game for task in paper.tasks.values() if task.kind == "atari"]
    assert all(
        [p[0] / 1e6 for p in reference_of(paper.folder, g).points] == [1, 2, 5, 10, 20, 50, 100, 199]
        for g in games
    )
    assert reference_of(paper.folder, "pong").at(1_000_000) == (-20.35, 0.14)


def test_columns_of_another_paper_and_a_run_without_evaluation_phases(toy):
    head = "agent_steps,frames,updates,episodes,eval_score,eval_episodes,train_score_100,entropy,clip_fraction,odd_thing"
    curve = [head, "100,400,1,1,,0,-20.5,1.7,0.1,3", "200,800,2,2,,0,-19.5,1.6,0.2,4"]
    write_run(toy, curve=curve, protocol={"score": "last_100_episodes"})
    p = page(toy)
    charts = p.data["sections"][0]["charts"]
    assert [c["title"] for c in charts] == [
        "Training score, mean of the last 100 episodes",
        "Entropy of the policy, nats",
        "Share of probability ratios that were clipped",
        "Odd thing",
    ]
    assert [c["small"] for c in charts] == [False, True, True, True]
    assert charts[0]["lines"][0]["value"] == 18.9
    assert charts[3]["series"][0]["y"] == [3, 4]
    assert "last 100 training episodes" in p.table("scores")[1][0]
    assert ["800", "\u221219.50"] in [row for t in p.tables for row in t["rows"]]


def test_what_else_the_paper_printed_is_marked_where_it_cannot_be_compared(toy):
    more = "toy,pong,toy_lstm,12.5,0.5,p,Table 3\ntoy,pong,toy_ff,14.5,,human_starts,Table 4\ntoy,seaquest,toy,1,,p,Table 4\n"
    (toy / "replications/toy/published.csv").write_text(PUBLISHED_CSV + more)
    write_run(toy)
    assert page(toy).table("others")[1:] == [
        ["toy lstm", "12.5 ± 0.5", "p"],
        ["toy ff", "14.5", "≠ not comparable: human starts"],
    ]


def test_value_estimates_stand_beside_what_they_estimate(toy):
    folder = write_run(toy, scores=[18.0, 20.0], extra=[])
    assert [
        c["lines"] for c in page(toy).data["sections"][0]["charts"] if c["title"].startswith("Value")
    ] == [[]]
    episodes = [{"score": 18.0, "discounted_return": 1.5}, {"score": 20.0, "discounted_return": 2.0}]
    edit(folder / "evaluation.json", episodes=episodes)
    (lines,) = [c["lines"] for c in page(toy).data["sections"][0]["charts"] if c["title"].startswith("Value")]
    assert [(line["value"], line["name"][:17]) for line in lines] == [(1.75, "discounted return")]


@pytest.mark.parametrize(
    ("given", "link"),
    [
        ("arxiv: '1707.06347'", "https://arxiv.org/abs/1707.06347"),
        ("url: https://a.example/b", "https://a.example/b"),
    ],
)
def test_papers_without_a_doi(toy, given, link):
    path = toy / "replications/toy/paper.yaml"
    path.write_text(path.read_text().replace("doi: 10.1/toy", given))
    assert link in page(toy).links


# --- hostile content
# ----------------------------------------------------------------------------------------------------


def test_names_and_values_are_escaped(toy):
    evil = "</script><script>alert(1)</script><img src=http://evil.example/x>"
    write_run(
        toy,
        provenance={
            "commit": evil,
            "notes": [evil],
            "command": evil,
            "hardware": {"cpu": evil},
            "versions": {evil: evil},
        },
    )
    folder = write_progress(toy, seed=2)
    (folder / "checkpoint" / "status.json").write_text(
        json.dumps({"state": evil, "message": evil, "updated": evil, "agent_steps": 1})
    )
    csv_text = PUBLISHED_CSV.replace(",p,Table 2", ",p<b>&,Table 2")
    (toy / "replications/toy/published.csv").write_text(csv_text)
    text = (toy / "replications/toy/paper.yaml").read_text()
    (toy / "replications/toy/paper.yaml").write_text(
        text.replace("title: A toy that learns", f"title: '{evil}'")
    )
    p = page(toy)
    assert sum(tag == "script" for tag, _ in p.tags) == 3
    assert not any(tag == "img" for tag, _ in p.tags)
    assert evil in p.words
    assert p.data["target"] == "toy_pong"


def test_script_json_cannot_close_its_element():
    text = render_module.script_json({"a": "</script>\u2028&<!--"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"a": "</script>\u2028&<!--"}
    with pytest.raises(ValueError, match="Out of range"):
        render_module.script_json({"a": math.nan})


def test_nan_in_a_curve_is_a_gap_and_said(toy):
    write_run(
        toy, curve=[CURVE, "1,4,1,1,1,1.0,3,,nan,,", "2,8,1,1,1,inf,3,,0.5,,", "3,12,1,1,1,2.0,3,,0.25,,"]
    )
    p = page(toy)
    assert "2 values in the curves: not a finite number" in p.words
    assert p.data["sections"][0]["charts"][0]["series"][0] == {
        "name": "seed 1",
        "css": "s1",
        "x": [4, 8, 12],
        "y": [1, None, 2],
    }
    assert "NaN" not in p.json


def test_thirty_seeds_twice_long_curves_and_huge_scores_stay_small(toy):
    clock = [
        "agent_steps,seconds,steps_per_second",
        *(f"{PAPER_FRAMES * i // 3200},{97.3 * i},1" for i in range(1, 801)),
    ]
    for seed in range(1, 31):
        mean = 95_000.0 + 100 * seed
        rows = curve_rows(PAPER_FRAMES, mean, rows=800, seed=seed)
        for recorded in (False, True):
            options = {"curve": rows, "spread": 20_000.0, "recorded": recorded}
            folder = write_run(toy, size="paper", seed=seed, mean=mean, frames=PAPER_FRAMES, **options)
            (folder / "timing.csv").write_text("\n".join(clock) + "\n")
    p = page(toy)
    assert p.html["data-verdict"] == "replicated"
    assert "Far above: check the protocol" in p.words
    main = p.data["sections"][0]["charts"][0]
    assert len(main["series"]) == 31
    assert main["series"][30]["h"][-1] == pytest.approx(800 * 97.3 / 3600, 1e-3)
    assert max(len(s["x"]) for s in main["series"]) <= 500
    # t(df 29) = 2.0452 * 880.3 / sqrt(30) = 329
    assert p.table("scores")[1][1] == "96,600 ± 300"


def test_a_long_curve_is_thinned_without_losing_its_peak():
    xs = list(range(10_000))
    ys = [math.sin(x / 50) for x in xs]
    ys[7777], ys[1234] = 50.0, None
    x, y = thin(xs, ys, 500)
    assert len(x) <= 500
    assert (x[0], x[-1]) == (0, 9999)
    assert max(v for v in y if v is not None) == 50.0
    assert x == sorted(x)
    assert thin([1, 2], [3, 4]) == ([1, 2], [3, 4])
    many = series_of([(f"seed {i}", xs, ys) for i in range(30)])
    assert sum(len(s.xs) for s in many) <= 31 * 200


# --- damaged results
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "run.json").write_text('{"paper": "toy", '),
            r"run\.json: not valid JSON .*copy the file again .*; if that was here, delete it",
        ),
        (
            lambda f: (f / "run.json").write_text("[]"),
            r"run\.json: at top level: \[\] is not of type 'object'",
        ),
        (
            lambda f: edit(f / "run.json", progress=None),
            r"run\.json: at top level: 'progress' is a required property",
        ),
        (
            lambda f: edit(f / "run.json", progress={"agent_steps": "many", "frames": 1}),
            r"at progress\.agent_steps: 'many' is not",
        ),
        (lambda f: edit(f / "run.json", seed=2), r"run\.json: at seed: 2, but its folder says 1"),
        (lambda f: edit(f / "run.json", task="breakout"), r"at task: 'breakout', but its folder says 'pong'"),
        (lambda f: (f / "run.json").write_bytes(b"\xff\xfe"), r"run\.json: not valid JSON"),
        (
            lambda f: (f / "run.json").unlink(),
            r"run\.json: the file is missing, though other results are there",
        ),
        (lambda f: (f / "curve.csv").unlink(), r"curve\.csv: the file is missing"),
        (lambda f: (f / "curve.csv").write_text(""), r"curve\.csv: the file is empty"),
        (
            lambda f: (f / "curve.csv").write_text("a,b\n1,2\n"),
            r"curve\.csv: line 1 has no column 'agent_steps'",
        ),
        (
            lambda f: (f / "curve.csv").write_text(CURVE + "\n1,2,3\n"),
            r"curve\.csv: line 2 has 3 cells, the header 11",
        ),
        (
            lambda f: (f / "curve.csv").write_text("agent_steps,frames\n1,x\n"),
            r"line 2: frames is 'x', not a number",
        ),
        (
            lambda f: (f / "evaluation.json").write_text("{"),
            r"evaluation\.json: not valid JSON.*copy the file again .*python -m common\.runs\.evaluate",
        ),
        (lambda f: edit(f / "evaluation.json", episodes=[]), r"evaluation\.json: at episodes"),
        (
            lambda f: edit(f / "evaluation.json", score=3.0),
            r"score 3\.0 is not the mean of its 30 episodes, 18",
        ),
        (
            lambda f: edit(f / "evaluation.json", score=math.nan),
            r"evaluation\.json: at score: nan is not a finite number",
        ),
        (
            lambda f: edit(f / "evaluation.json", episodes=[{"score": math.inf}]),
            r"at episodes\.0\.score: inf",
        ),
    ],
)
def test_damaged_files_are_named_with_their_fix(toy, damage, message):
    damage(write_run(toy, weights=True))
    with pytest.raises(UserError, match=message) as caught:
        page(toy)
    assert "results/toy/pong/hour/seed1" in str(caught.value)


def test_damaged_recorded_file_is_restored_not_deleted(toy):
    (write_run(toy, recorded=True) / "run.json").write_text("{")
    with pytest.raises(UserError, match="git checkout --"):
        page(toy)


# --- video, output, command line
# ------------------------------------------------------------------------------------------


def videos(p: Reader) -> list[bytes]:
    found = [a["src"] for tag, a in p.tags if tag == "video"]
    assert all(src.startswith("data:video/mp4;base64,") for src in found)
    return [base64.b64decode(src.removeprefix("data:video/mp4;base64,")) for src in found]


def test_the_film_is_the_median_seeds(toy):
    """By score, which is not the order of the seeds."""
    for seed, mean in enumerate((18.0, 6.0, 12.0), start=1):
        write_run(toy, seed=seed, mean=mean, video=film(2))
    assert "seed 3, the median seed" in page(toy).words


def test_excerpts_of_the_median_and_the_best_episode(toy):
    folder = write_run(toy, video=film(15 * 50))
    (folder / "best.mp4").write_bytes(film(30))
    assert len(videos(page(toy))) == 1, (
        "a best.mp4 that the evaluation does not speak of is left over from another"
    )
    lengths = {1: 30, 3: 15 * 50}  # agent steps; one picture each
    episodes = [{"score": 16.5 + 3 * (i % 2), "length": lengths.get(i, 99)} for i in range(30)]
    edit(folder / "evaluation.json", best_video={"episode": 1, "score": 19.5}, episodes=episodes)
    p = page(toy)
    for content, frames in zip(videos(p), (15 * 45, 30), strict=True):
        (toy / "seen.mp4").write_bytes(content)
        assert frame_count(toy / "seen.mp4") == frames
    assert (
        "Median episode: score 16.5. Of the protocol\u2019s episodes, seed 1; its first 45 s of 50 s."
        in p.words
    )
    assert "Best episode: score 19.5. Of the protocol\u2019s episodes, seed 1." in p.words
    assert frame_count(folder / "episode.mp4") == 15 * 50  # the whole one stays where it is
    # a recorded video is cut already: the page tells how long the episode was
    episodes[1]["length"] = 15 * 80
    edit(folder / "evaluation.json", episodes=episodes)
    assert "its first 2 s of 80 s" in page(toy).words


def test_videos_leave_the_page_under_a_megabyte(toy):
    """Of one there is no room for the shortest excerpt, of the other for no more than that."""
    write_run(toy, size="hour", video=film(20, (210, 160), 256))
    write_run(toy, size="smoke", frames=2000, video=film(15 * 9, (80, 64), 256))
    p = page(toy)
    assert len(videos(p)) == 1
    assert "its first 8 s of 2 min" in p.words
    named = "is too large for this page or cannot be read; it is the file results/toy/pong/hour/seed1/episode.mp4."
    assert named in p.words


def test_a_file_that_is_no_video_is_named(toy):
    write_run(toy, video=b"v" * 1000)
    p = page(toy)
    assert videos(p) == []
    assert "results/toy/pong/hour/seed1/episode.mp4" in p.words


def test_page_is_written_whole_or_not_at_all(toy, monkeypatch):
    out = toy / "reports" / "x.html"
    write(out, "one")
    assert out.read_text() == "one"
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(out, "two")
    assert out.read_text() == "one"
    assert [p.name for p in out.parent.iterdir()] == ["x.html"]


def test_command_line_on_the_real_pong(tmp_path, monkeypatch, capsys):
    published = load_target("dqn_pong").task.published
    target = load_target("reports/dqn_pong.html")
    assert (published.value, target.name) == (18.9, "dqn_pong")
    settings = papers.resolve("dqn", None, "pong", "hour").settings
    frames = settings["training_steps"] * 4
    write_run(tmp_path, paper="dqn", mean=-3.0, frames=frames, settings=settings)
    monkeypatch.chdir(tmp_path)
    render_module.main(["dqn_pong", "--results", "results", "--out", "out/page.html"])
    p = Reader(Path("out/page.html").read_text())
    assert ("own", "dqn_pong") in [(s["source"], p.data["target"]) for s in p.data["sections"]]
    assert capsys.readouterr().out.splitlines()[-1] == "page: out/page.html"
    with pytest.raises(UserError, match=r"unknown target 'dqn_pongg'.*dqn_pong"):
        render_module.main(["dqn_pongg"])


# --- small parts
# ----------------------------------------------------------------------------------------------------------


def test_picture_survives_unbounded_and_single_values():
    svg = picture([PictureRow("a", "1", 1.0, "ours", interval=(-math.inf, math.inf))], None, "x")
    assert "nan" not in svg
    assert "inf" not in svg.replace("interval", "")
    assert "nan" not in picture([PictureRow("a", "1", 5.0, "ours", points=(5.0,))], ("line", 5.0), "x")


def test_scale_and_ticks():
    scale = Scale(0.0, 10.0, edge=0)
    assert [scale(v) for v in (-5, 0, 5, 10, 99)] == [0, 0, 50, 100, 100]
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-21, 21) == [-20, -10, 0, 10, 20]
    assert [short_count(v) for v in (950, 38_400, 2_000_000, 200_000_000, None)] == [
        "950",
        "38.4 k",
        "2 M",
        "200 M",
        "\u2013",
    ]


def test_words_for_values():
    assert [plain_value(v) for v in (1_000_000, 0.00025, True, None, 1.0, "nature")] == [
        "1,000,000", "0.00025", "yes", "\u2013", "1", "nature",
    ]  # fmt: skip
    assert [duration(v) for v in (12.3, 3000, 7200, 259_200, None)] == [
        "12 s",
        "50 min",
        "2.0 h",
        "3.0 days",
        "\u2013",
    ]


def test_curve_reader_counts_what_is_not_finite(tmp_path):
    path = tmp_path / "curve.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["agent_steps", "frames", "y"], [1, 4, ""], [2, 8, "nan"], [3, 12, 5]])
    curve = read_curve(path)
    assert curve.not_finite == 1
    assert curve.series("y") == ([4.0, 8.0, 12.0], [None, None, 5.0])
    assert curve.series("absent") == ([], [])


def test_overrides_are_found_from_a_runs_settings(toy):
    write_run(toy, settings={"training_steps": 77, "learning_rate": 0.00025, "target_period": 10_000})
    target = target_of(toy)
    ((_, _, runs),), _ = find_runs(target, toy / "results")
    resolved, notes = resolved_for(target, "hour", runs)
    assert resolved.settings["training_steps"] == 77
    assert resolved.sources["training_steps"] == "command line"
    assert notes == []


def test_a_recorded_run_of_earlier_rules_says_so_and_is_not_played_again(toy, monkeypatch):
    import common.evaluation.protocol

    folder = write_run(toy, mean=18.0, recorded=True, weights=True)
    edit(folder / "run.json", superseded="screens are smaller now")
    monkeypatch.setattr(common.evaluation.protocol, "replay_recorded", lambda *a, **k: pytest.fail("played"))
    p = page(toy, source="recorded")
    assert "Made under earlier rules: screens are smaller now. New runs take their place." in p.words
    assert "Its episodes are not played again here: screens are smaller now." in p.words
