"""Synthetic run folders of a toy paper, in the exact form that training and evaluation write, and a reader of pages."""

import json
import math
import random
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from common import papers
from common.evaluation.video import write_mp4
from reports.render import build
from reports.target import PageTarget

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
     score: evaluation_mean, description: Thirty games., source: Methods, published_protocol: p, published_episodes: 7}
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
CURVE = "agent_steps,frames,updates,episodes,epsilon,eval_score,eval_episodes,train_score_100,loss,mean_max_q,learning_rate"


def target_of(root: Path, task="pong", variant=None) -> PageTarget:
    paper = papers.load_paper("toy", root=root / "replications")
    found, entry = papers.find_task(paper, variant, task)
    return PageTarget(papers.Target("toy", variant, task).name, paper, found, entry, variant)


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
    extra = (
        [float(round(rng.gauss(mean, spread or 1))) for _ in range(extra_count)] if extra is None else extra
    )
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
        "result": {
            "best_score": mean,
            "best_agent_step": steps,
            "stopped": "length",
            "counts": {"target_copies": 3},
        },
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


def edit(path: Path, **changes):
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    path.write_text(json.dumps(data))


def film(frames: int, sides: tuple[int, int] = (16, 16), noise: int = 1) -> bytes:
    """A video; with `noise` 256 one that does not compress, as the busiest games."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_mp4(path, (rng.integers(0, noise, (*sides, 3), dtype=np.uint8) for _ in range(frames)))
        return path.read_bytes()


def write_values(
    folder: Path, films: dict[str, tuple[int, list, list]], actions=("NOOP", "UP"), **changes
) -> None:
    """`values.json` beside a run's evaluation: by film (episode, values, played)."""
    content = {
        "kind": "values",
        "fps": 15,
        "actions": list(actions),
        "weights_sha256": "feed" * 16,
        "films": {name: {"episode": e, "values": v, "played": p} for name, (e, v, p) in films.items()},
    }
    (folder / "values.json").write_text(json.dumps(content | changes))
