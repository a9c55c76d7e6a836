"""The page from synthetic run folders: numbers, verdicts and states on it, hostile content, and that it asks for
nothing outside.
"""

import csv
import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path

import pytest

import common.evaluation
from common import papers
from common.errors import UserError
from reports import render as render_module
from reports.charts import PictureRow, Scale, picture, series_of, short_count, thin, ticks
from reports.data import read_curve
from reports.render import build, write
from reports.section import resolved_for
from reports.tables import duration, plain_value
from reports.target import Target, load_target

WHO = ("Ours", "The paper", "Human", "Random play")
PAPER_FRAMES = 4_000_000
PAPER_YAML = """
paper: toy
short: TOY (2015)
title: A toy that learns
citation: {authors: A. Uthor, venue: Toys 1, year: 2015, doi: 10.1/toy, bibtex: "@article{toy, title={A toy}}"}
summary: a toy
frames_per_agent_step: 4
agent_steps_per_update: 4
constants:
  - {name: training length, field: training_steps, paper: 1000000, unit: agent steps, source: Table 1}
  - {name: learning rate, field: learning_rate, paper: 0.00025, unit: per update, source: Table 1}
  - {name: target copy, field: target_period, paper: 40000, unit: frames, field_unit: agent steps, source: Table 1}
  - {name: kernels, field: null, paper: 32, unit: filters, source: Methods}
deviations:
  - {what: Another emulator, reason: theirs is gone, source: released code}
protocols:
  nature:
    {starts: no-ops, noop_max: 30, epsilon: 0.05, max_frames: 18000, episodes: 30, extra_episodes: 100, weights: best,
     score: evaluation_mean, description: Thirty games., source: Methods, published_protocol: p, published_episodes: 30}
tasks:
  - {names: [pong, montezuma], kind: atari, title: "{name}", protocol: nature, paper_frames: 4000000,
     published: {file: published.csv, metric: toy}, random: {file: published.csv, metric: random},
     human: {file: published.csv, metric: human}}
  - {names: [cartpole], kind: gym, env_id: CartPole-v1, title: CartPole, in_paper: false, published: none,
     published_reason: a check that the code learns, bar: 475, protocol: nature, seeds: 5}
variants:
  slow:
    title: slower
    description: Learns slowly.
    settings: {learning_rate: 0.0001}
    reasons: {learning_rate: the ablation}
    tasks:
      - {names: [pong], kind: atari, title: "{name}", protocol: nature, published: none, published_reason: not printed}
budgets:
  smoke: {settings: {training_steps: 500}, reasons: {"*": small}, expect: nothing much}
  hour:
    settings: {training_steps: 10000}
    reasons: {"*": an hour is short}
    evaluation: {extra_episodes: 30}
    expect: It begins to learn.
  paper: {settings: {}, expect: {cpu: four days, cuda: one night}}
"""
PUBLISHED_CSV = """paper,game,metric,value,stdev,protocol,source
toy,pong,toy,18.9,1.3,p,Table 2
toy,pong,random,-20.7,,r,Table 2
toy,pong,human,9.3,,h,Table 2
toy,montezuma,toy,0,,p,Table 2
toy,montezuma,random,0,,r,Table 2
toy,montezuma,human,4367,,h,Table 2
"""
TRAIN_PY = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    training_steps: int = 1_000_000
    learning_rate: float = 0.00025
    target_period: int = 10_000
"""
CURVE = (
    "agent_steps,frames,updates,episodes,epsilon,eval_score,eval_episodes,train_score_100,loss,mean_max_q,learning_rate"
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A replications folder with one paper, and the working directory in tmp_path."""
    folder = tmp_path / "replications" / "toy"
    folder.mkdir(parents=True)
    for name, text in (("paper.yaml", PAPER_YAML), ("published.csv", PUBLISHED_CSV), ("train.py", TRAIN_PY)):
        (folder / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def target_of(root: Path, task="pong", variant=None) -> Target:
    paper = papers.load_paper("toy", root=root / "replications")
    found, entry = papers.find_task(paper, variant, task)
    return Target(papers.Target("toy", variant, task).name, paper, found, entry, variant)


def curve_rows(frames: int, level: float, rows: int = 20, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    lines = [CURVE]
    for i in range(1, rows + 1):
        f = frames * i // rows
        score = -20.7 + (level + 20.7) * (1 - math.exp(-4 * i / rows)) + rng.gauss(0, 0.6)
        loss = 0.02 * rng.random()
        counts = f"{f // 4},{f},{f // 16},{i * 10},{max(0.1, 1 - i / rows)}"
        lines.append(f"{counts},{score:.3f},12,{score - 1:.3f},{loss:.5f},{i / 8:.4f},0.00025")
    return lines


def write_run(
    root: Path,
    *,
    size="hour",
    seed=1,
    mean=18.0,
    scores=None,
    extra=None,
    frames=40_000,
    task="pong",
    recorded=False,
    settings=None,
    provenance=None,
    curve=None,
    video=b"",
    weights=False,
    paper="toy",
    protocol=None,
    spread=1.5,
    variant=None,
    extra_count=100,
) -> Path:
    """A finished run in the exact form that training and evaluation write."""
    if recorded:
        folder = papers.recorded_dir(paper, variant, task, size, seed, root=root / "replications")
    else:
        folder = papers.run_dir(paper, variant, task, size, seed, root / "results")
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    scores = [mean + spread * d for d in (-1, 1) * 15] if scores is None else scores
    extra = [float(round(rng.gauss(mean, spread or 1))) for _ in range(extra_count)] if extra is None else extra
    steps = frames // 4
    run = {
        "paper": paper,
        "variant": variant,
        "task": task,
        "budget": size,
        "seed": seed,
        "settings": {"training_steps": steps, "learning_rate": 0.00025, "target_period": 10_000, "seed": seed}
        if settings is None
        else settings,
        "settings_key": "abcdef012345",
        "progress": {"agent_steps": steps, "frames": frames, "updates": steps // 4, "episodes": 260},
        "frames_per_agent_step": 4,
        "paper_frames": PAPER_FRAMES,
        "result": {"best_score": mean, "best_agent_step": steps, "stopped": "length", "counts": {"target_copies": 3}},
        "provenance": {
            "commit": "1234abcd" * 5,
            "diff_sha256": None,
            "code_sha256": "c0de" * 16,
            "lock_sha256": "10c4" * 16,
            "rom_sha256": "40a1" * 16,
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "hardware": {"cpu": "A CPU", "cores": 2, "memory_gb": 23.5, "gpu": None},
            "device": "cpu",
            "threads": 2,
            "deterministic": True,
            "command": f"python -m replications.toy.train --task {task} --seed {seed} --budget {size}",
            "finished": "2026-01-02T03:04:05",
            "notes": [],
            **(provenance or {}),
        },
        "cost": {
            "seconds": 3000.0,
            "attempts": 2,
            "steps_per_second": 160.4,
            "peak_memory_mb": 2100,
            "evaluation_seconds": 120.0,
        },
    }
    evaluation = {
        "paper": paper,
        "variant": variant,
        "task": task,
        "budget": size,
        "seed": seed,
        "weights": "best",
        "weights_agent_step": steps,
        "weights_sha256": "feed" * 16,
        "protocol": {
            "name": "nature",
            "episodes": len(scores),
            "epsilon": 0.05,
            "max_frames": 18000,
            "noop_max": 30,
            "extra_episodes": len(extra),
            "weights": "best",
            "score": "evaluation_mean",
            **(protocol or {}),
        },
        "score": sum(scores) / len(scores),
        "episodes": [{"seed": i, "score": s, "length": 1700} for i, s in enumerate(scores)],
        "extra_episodes": [{"seed": 1000 + i, "score": s, "length": 1700} for i, s in enumerate(extra)],
        "video": {"episode": 3, "score": scores[0]},
        "device": "cpu",
        "seconds": 93.0,
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "curve.csv").write_text("\n".join(curve or curve_rows(frames, mean, seed=seed)) + "\n")
    (folder / "run.json").write_text(json.dumps(run))
    if video:
        (folder / "episode.mp4").write_bytes(video)
    if weights:
        (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def write_progress(root: Path, *, state="training", size="hour", seed=1, curve=None, status=True) -> Path:
    folder = papers.run_dir("toy", None, "pong", size, seed, root / "results")
    (folder / "checkpoint" / "live").mkdir(parents=True)
    if curve is not None:
        (folder / "checkpoint" / "live" / "curve.csv").write_text(curve)
    if status:
        content = {
            "state": state,
            "agent_steps": 2500,
            "training_steps": 10_000,
            "steps_per_second": 50.0,
            "updated": "now",
            "message": "m",
        }
        (folder / "checkpoint" / "status.json").write_text(json.dumps(content))
    return folder


class Reader(HTMLParser):
    """Collects what a test asks about: root attributes, loads, links, tables, visible text, the embedded JSON; checks
    nesting.
    """

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "source"})

    def __init__(self, text: str):
        super().__init__()
        self.html, self.loads, self.links, self.tables, self.stack, self.tags = {}, [], [], [], [], []
        self.text, self.json, self.ids = [], "", []
        self.feed(text)
        self.close()
        assert self.stack == [], f"unclosed: {self.stack}"
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "html":
            self.html = attributes
        for name in ("src", "data", "poster", "srcset", "action"):
            if name in attributes:
                self.loads.append(attributes[name])
        if "href" in attributes:
            (self.links if tag == "a" else self.loads).append(attributes["href"])
        if tag not in self.VOID:
            self.stack.append(tag)
        if tag == "table":
            self.tables.append({"class": attributes.get("class"), "rows": [], "caption": ""})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "script" in self.stack:
            if self.tags[-1] == ("script", {"type": "application/json", "id": "data"}):
                self.json += data
            return
        if "style" in self.stack:
            return
        self.text.append(data)
        if self.stack and self.stack[-1] == "caption":
            self.tables[-1]["caption"] += data
        if "table" in self.stack and ("td" in self.stack or "th" in self.stack):
            self.tables[-1]["rows"][-1][-1] += data

    @property
    def data(self) -> dict:
        return json.loads(self.json)

    def table(self, css: str) -> list[list[str]]:
        return next(t["rows"] for t in self.tables if t["class"] == css)


def page(root: Path, task="pong", source="own", variant=None) -> Reader:
    text, _ = build(target_of(root, task, variant), source, root / "results")
    reader = Reader(text)
    outside = [load for load in reader.loads if not load.startswith("data:")]
    assert outside == [], "a page never asks for anything outside itself"
    assert len(reader.ids) == len(set(reader.ids))
    for tag, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "svg" and "role" in attributes:
            assert attributes["aria-label"]
    assert all(t["caption"].strip() for t in reader.tables)
    assert len(text.encode()) < 1_000_000
    reader.raw = text
    return reader


# --- verdicts and numbers -------------------------------------------------------------------------------------------


def test_one_seed_at_the_hour(toy):
    write_run(toy, mean=18.53, spread=2.0)
    p = page(toy)
    assert (p.html["data-verdict"], p.html["data-source"], p.html["data-size"]) == ("reached", "own", "hour")
    assert "one seed, 1.0 % of the paper's frames" in p.words
    assert "standard errors 0.4" in p.words
    section = p.data["sections"][0]
    assert section["g"]["value"] == pytest.approx((18.53 + 20.7) / 39.6)
    assert section["human_normalised"] == pytest.approx((18.53 + 20.7) / 30)
    assert section["fraction_of_paper_frames"] == 0.01
    rows = {who: next(row for row in p.table("scores") if row[0].startswith(who)) for who in WHO}
    assert rows["Ours"][1:3] == ["18.5", "131 %"]  # the episodes' standard error is 0.37
    assert rows["The paper"][1] == "18.9 ± 1.3"
    assert rows["The paper"][2] == "132 %"
    assert "standard error 0.2 over its 30 episodes" in rows["The paper"][0]
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
    assert p.data["sections"][0]["seed_scores"] == {str(i): pytest.approx(m) for i, m in enumerate(means, start=1)}


def test_score_is_rounded_to_its_interval(toy):
    for seed, mean in enumerate((18.2, 18.5, 18.9), start=1):
        write_run(toy, size="paper", seed=seed, mean=mean, frames=PAPER_FRAMES)
    # 4.3027 * 0.35119 / sqrt(3) = 0.872
    assert page(toy).table("scores")[1][1] == "18.5 ± 0.9"


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
    assert "475, was reached by 5 of 5 seeds" in p.words
    assert "not in the paper" in p.words


def test_variant_without_a_published_row(toy):
    write_run(
        toy, variant="slow", settings={"training_steps": 10_000, "learning_rate": 0.0001, "target_period": 10_000}
    )
    p = page(toy, variant="slow")
    assert p.html["data-verdict"] == "no_published"
    assert "the ablation" in p.words.lower()


def test_stopped_early_is_not_the_papers_length(toy):
    for seed in (1, 2, 3):
        write_run(toy, size="paper", seed=seed, mean=18.9, frames=PAPER_FRAMES - 4)
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
    assert p.html["data-verdict"] == "in_progress"
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
    (write_run(toy) / "evaluation.json").unlink()
    p = page(toy)
    assert p.html["data-verdict"] == "in_progress"
    assert "python -m common.evaluation results/toy/pong/hour/seed1" in p.words


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
    monkeypatch.setattr(common.evaluation, "replay_recorded", replayed(10))
    p = page(toy, source="recorded")
    assert (p.html["data-verdict"], p.html["data-source"], p.html["data-size"]) == ("replicated", "recorded", "paper")
    assert "All 10 gave exactly the recorded score" in p.words
    assert "10 recorded episodes of seed 2" in p.words
    assert "--config source=recorded" in p.words
    monkeypatch.setattr(common.evaluation, "replay_recorded", replayed(7))
    p = page(toy, source="recorded")
    assert "7 of 10 gave exactly the recorded score (recorded mean 18.40, replayed mean 17.90)" in p.words
    assert "Floating-point" in p.words


def test_recorded_without_weights_or_without_anything(toy):
    with pytest.raises(UserError, match="no recorded run of toy_pong in replications/toy/recorded/base/pong"):
        page(toy, source="recorded")
    write_run(toy, recorded=True)
    assert "No weights were kept" in page(toy, source="recorded").words
    assert page(toy).html["data-source"] == "recorded"


# --- what stands beside the numbers -----------------------------------------------------------------------------------


def test_constants_deviations_protocol_cost_provenance(toy):
    settings = {"training_steps": 10_000, "learning_rate": 0.001, "target_period": 10_000, "gone": 3}
    write_run(toy, settings=settings, provenance={"diff_sha256": "d1ff" * 16})
    p = page(toy)
    names = ("Training length", "Learning rate", "Target copy", "Kernels")
    rows = {name: next(row for row in p.table("constants") if row[0].startswith(name)) for name in names}
    assert rows["Training length"][1:] == ["1,000,000", "≠ 10,000"]
    assert "agent steps · Table 1. An hour" in rows["Training length"][0]
    assert "An hour is short." in rows["Training length"][0]
    assert rows["Learning rate"][1:3] == ["0.00025", "≠ 0.001"]
    assert "Given on the command line." in rows["Learning rate"][0]
    assert rows["Target copy"][1:3] == ["40,000", "10,000 agent steps"]
    assert rows["Kernels"][1:3] == ["32", "32"]
    assert "2 of 4 differ" in p.words
    assert "Another emulator" in p.words
    assert (
        "Training length: 10,000 instead of 1,000,000 agent steps. An hour is short. Source: Table 1. Set by budget."
        in p.words
    )
    assert "a setting that the code no longer has: gone = 3" in p.words
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


def test_fewer_episodes_than_the_protocol_are_said(toy):
    write_run(toy, scores=[18.0, 19.0], extra=[])
    p = page(toy)
    assert "Evaluated on 2 of the protocol's 30 episodes." in p.words
    assert "2 (the protocol asks for 30)" in p.words


def test_extra_episodes_tell_the_noise(toy):
    write_run(toy, scores=[10.0, 20.0] * 15, extra=[8.0, 18.0] * 50)
    p = page(toy)
    # sd 5.085 / sqrt(30) = 0.93; sd 5.025 / sqrt(100) = 0.50
    assert "average 15.0, 100 further ones of the same weights 13.0 (standard errors 0.9 and 0.5)" in p.words
    dots = [a["d"] for tag, a in p.tags if tag == "path" and a.get("class") == "dots"]
    assert [d.count("M") for d in dots] == [30, 100]


def test_curves_carry_the_published_line_and_the_mean(toy):
    for seed in (1, 2):
        write_run(toy, seed=seed, curve=[CURVE, f"100,400,1,1,1,{seed},3,,,,", f"200,800,2,2,.5,{seed * 3},3,,0.5,,"])
    p = page(toy)
    charts = {c["title"]: c for c in p.data["sections"][0]["charts"]}
    main = charts["Evaluation score during training"]
    assert main["lines"][0] == {"name": "the paper's score", "css": "paper", "value": 18.9}
    assert [s["name"] for s in main["series"]] == ["seed 1", "seed 2", "mean of 2 seeds"]
    assert main["series"][2] == {"name": "mean of 2 seeds", "css": "mean", "x": [400, 800], "y": [1.5, 4.5]}
    assert set(charts) == {"Evaluation score during training", "Loss", "Exploration: epsilon"}, (
        "empty columns draw no chart"
    )
    assert ["800", "3.00", "6.00"] in [row for t in p.tables for row in t["rows"]]
    stills = [a for tag, a in p.tags if tag == "svg" and a.get("class") == "still"]
    assert len(stills) == 3


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
    (toy / "replications/toy/paper.yaml").write_text(text.replace("title: A toy that learns", f"title: '{evil}'"))
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
    write_run(toy, curve=[CURVE, "1,4,1,1,1,1.0,3,,nan,,", "2,8,1,1,1,inf,3,,0.5,,", "3,12,1,1,1,2.0,3,,0.25,,"])
    p = page(toy)
    assert "2 values in the curves: not a finite number" in p.words
    assert p.data["sections"][0]["charts"][0]["series"][0] == {
        "name": "seed 1",
        "css": "s1",
        "x": [4, 8, 12],
        "y": [1, None, 2],
    }
    assert "NaN" not in p.json


def test_thirty_seeds_long_curves_and_huge_scores_stay_small(toy):
    for seed in range(1, 31):
        rows = curve_rows(PAPER_FRAMES, 95_000.0 + 100 * seed, rows=800, seed=seed)
        write_run(
            toy, size="paper", seed=seed, mean=95_000.0 + 100 * seed, frames=PAPER_FRAMES, curve=rows, spread=20_000.0
        )
    p = page(toy)
    assert p.html["data-verdict"] == "replicated"
    assert "Far above: check the protocol" in p.words
    main = p.data["sections"][0]["charts"][0]
    assert len(main["series"]) == 31
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


def edit(path: Path, **changes):
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "run.json").write_text('{"paper": "toy", '),
            r"run\.json: not valid JSON .*delete the folder .*seed1 and run",
        ),
        (lambda f: (f / "run.json").write_text("[]"), r"run\.json: at top level: \[\] is not of type 'object'"),
        (lambda f: edit(f / "run.json", progress=None), r"run\.json: at top level: 'progress' is a required property"),
        (
            lambda f: edit(f / "run.json", progress={"agent_steps": "many", "frames": 1}),
            r"at progress\.agent_steps: 'many' is not",
        ),
        (lambda f: edit(f / "run.json", seed=2), r"run\.json: at seed: 2, but its folder says 1"),
        (lambda f: edit(f / "run.json", task="breakout"), r"at task: 'breakout', but its folder says 'pong'"),
        (lambda f: (f / "run.json").write_bytes(b"\xff\xfe"), r"run\.json: not valid JSON"),
        (lambda f: (f / "run.json").unlink(), r"run\.json: the file is missing, though other results are there"),
        (lambda f: (f / "curve.csv").unlink(), r"curve\.csv: the file is missing"),
        (lambda f: (f / "curve.csv").write_text(""), r"curve\.csv: the file is empty"),
        (lambda f: (f / "curve.csv").write_text("a,b\n1,2\n"), r"curve\.csv: line 1 has no column 'agent_steps'"),
        (lambda f: (f / "curve.csv").write_text(CURVE + "\n1,2,3\n"), r"curve\.csv: line 2 has 3 cells, the header 11"),
        (lambda f: (f / "curve.csv").write_text("agent_steps,frames\n1,x\n"), r"line 2: frames is 'x', not a number"),
        (
            lambda f: (f / "evaluation.json").write_text("{"),
            r"evaluation\.json: not valid JSON.*python -m common\.evaluation",
        ),
        (lambda f: edit(f / "evaluation.json", episodes=[]), r"evaluation\.json: at episodes"),
        (lambda f: edit(f / "evaluation.json", score=3.0), r"score 3\.0 is not the mean of its 30 episodes, 18"),
        (
            lambda f: edit(f / "evaluation.json", score=math.nan),
            r"evaluation\.json: at score: nan is not a finite number",
        ),
        (lambda f: edit(f / "evaluation.json", episodes=[{"score": math.inf}]), r"at episodes\.0\.score: inf"),
    ],
)
def test_damaged_files_are_named_with_their_fix(toy, damage, message):
    damage(write_run(toy))
    with pytest.raises(UserError, match=message) as caught:
        page(toy)
    assert "results/toy/pong/hour/seed1" in str(caught.value)


def test_damaged_recorded_file_is_restored_not_deleted(toy):
    (write_run(toy, recorded=True) / "run.json").write_text("{")
    with pytest.raises(UserError, match="git checkout --"):
        page(toy)


# --- video, output, command line
# ------------------------------------------------------------------------------------------


def test_video_is_embedded_while_the_page_stays_under_a_megabyte(toy):
    write_run(toy, size="hour", video=b"v" * 500_000)
    write_run(toy, size="smoke", frames=2000, video=b"w" * 500_000)
    p = page(toy)
    videos = [a["src"] for tag, a in p.tags if tag == "video"]
    assert len(videos) == 1
    assert videos[0].startswith("data:video/mp4;base64,dnZ2")
    assert (
        "The recording is too large for this page; it is the file results/toy/pong/smoke/seed1/episode.mp4." in p.words
    )


def test_long_video_is_named(toy):
    write_run(toy, video=b"v" * 700_001)
    p = page(toy)
    assert not any(tag == "video" for tag, _ in p.tags)
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
    assert "out/page.html: " in capsys.readouterr().out
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
    assert [duration(v) for v in (12.3, 3000, 7200, 259_200, None)] == ["12 s", "50 min", "2.0 h", "3.0 days", "\u2013"]


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
    from reports.data import find_runs

    runs = find_runs(toy / "results/toy/pong", "own", "toy", None, "pong")["hour"]
    resolved, notes = resolved_for(target, "hour", runs)
    assert resolved.settings["training_steps"] == 77
    assert resolved.sources["training_steps"] == "command line"
    assert notes == []
