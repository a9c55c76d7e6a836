"""What the README says of results is what the recorded runs hold, and the commands it names exist."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np

from common import papers

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def recorded(task: str) -> list[dict]:
    files = sorted((ROOT / "replications/dqn/recorded/base" / task / "hour").glob("seed*/evaluation.json"))
    return [json.loads(file.read_text()) for file in files]


def test_results_are_the_recorded_ones():
    rows = dict(re.findall(r"^\| `(dqn_\w+)` \| ([^|]*) \|", README, re.MULTILINE))
    assert set(rows) == {"dqn_pong", "dqn_cartpole"}
    for name, words in rows.items():
        evaluations = recorded(name.removeprefix("dqn_"))
        mean = np.mean([np.mean([e["score"] for e in evaluation["episodes"]]) for evaluation in evaluations])
        assert f"{mean:.1f}".replace("-", "\N{MINUS SIGN}") in words
        assert {1: "one seed", 5: "five seeds"}[len(evaluations)] in words
    published = papers.load_paper("dqn").tasks["pong"].published
    assert f"{published.value} ± {published.stdev} at 200 million frames" in README


def test_targets_and_modules_it_names_exist():
    targets = papers.targets()
    named = set(re.findall(r"reports/([a-z0-9_-]+)\.html", README))
    assert named <= {*targets, "index"}
    assert "dqn-no_replay_breakout" in named
    for module in re.findall(r"python -m ([a-z_.]+)", README):
        assert importlib.util.find_spec(module)
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
