"""The table of what runs cost holds what was measured, and what is computed from it is of the size that runs have."""

from __future__ import annotations

import json
from statistics import median

import pytest

from common import papers
from common.runs import costs

ROOT = papers.REPLICATIONS.parent
BENCHMARKS = json.loads((ROOT / "benchmarks/results.json").read_text())
ROWS = [(paper, name, row) for paper, rows in costs.table().items() if isinstance(rows, dict) for name, row in rows.items()]  # fmt: skip
OF_RUNS = [row for row in ROWS if "/" in row[2]["of"]]


def resolved(agent: str, task: str, size: str) -> papers.Resolved:
    paper, _, variant = agent.partition("-")
    return papers.resolve(paper, variant or None, task, size)


@pytest.mark.parametrize(("paper", "name", "row"), OF_RUNS)
def test_a_row_of_a_recorded_run_is_what_its_seeds_took(paper, name, row):
    found = [json.loads(p.read_text()) for p in (papers.REPLICATIONS / row["of"]).glob("seed*/run.json")]
    assert found, f"costs.yaml: {row['of']} is no recorded run any more; name another, or say estimate"
    workers = found[0]["settings"].get("workers") or 1
    key, unit = (
        ("seconds", 1) if "seconds" in row else ("steps_per_second", workers if name != "claims" else 1)
    )
    measured = median(run["cost"][key] for run in found) / unit
    # recorded again, a run finds another machine, more or less busy
    assert 0.25 < row.get("rate", row.get("seconds")) / measured < 4
    if name not in ("atari", "fast"):  # theirs is without the replay memory
        assert row["memory_mb"] >= max(run["cost"]["peak_memory_mb"] for run in found) * 0.9


def test_every_other_row_is_a_benchmark_or_says_that_it_is_an_estimate():
    per = {"a3c": 2}  # its rate is of a worker, the benchmark has one a core
    ratios = {
        (paper, name): row["rate"] * per.get(paper, 1) / BENCHMARKS[row["of"]]["median"]
        for paper, name, row in ROWS
        if "/" not in row["of"] and row["of"] != "estimate"
    }
    machine = median(ratios.values())  # another one is faster or slower, by about as much in all rows
    assert 0.25 < machine < 4
    for row, ratio in ratios.items():
        assert 0.75 < ratio / machine < 1.33, f"costs.yaml: {row} is out of line with benchmarks/results.json"


@pytest.mark.parametrize(
    "row", [row for row in OF_RUNS if row[0] not in ("a3c", "alphago_zero") and "rate" in row[2]]
)
def test_a_recorded_runs_time_and_memory_come_out(row):
    _, variant, task, size = row[2]["of"].replace("recorded/", "").split("/")
    agent = row[0] if variant == "base" else f"{row[0]}-{variant}"
    runs = [json.loads(p.read_text()) for p in (papers.REPLICATIONS / row[2]["of"]).glob("seed*/run.json")]
    cost = costs.cost_of(resolved(agent, task, size))
    assert 0.2 < cost.seconds / median(run["cost"]["seconds"] for run in runs) < 5
    peak = max(run["cost"]["peak_memory_mb"] for run in runs)
    assert 0.9 * peak <= cost.memory_mb <= 1.25 * peak


def test_a_paper_length_dqn():
    cost = costs.cost_of(resolved("dqn", "pong", "paper"))
    assert cost.threads == 4
    assert cost.memory_mb == pytest.approx(BENCHMARKS["peak_rss_gb"]["median"] * 1000, rel=0.05)
    assert cost.meanwhile_mb == pytest.approx(7762 + 200, rel=0.01)
    assert cost.seconds / 3600 == pytest.approx(50e6 / 134 / 3600 + 200 * 125_000 / 1067 / 3600, rel=0.01)
    fast = costs.cost_of(resolved("dqn-fast", "pong", "paper"))
    assert fast.memory_mb - cost.memory_mb == pytest.approx(2800, rel=0.1)  # half a ring of slack


def test_workers_take_a_core_each_and_small_networks_one():
    assert costs.cost_of(resolved("a3c", "pong", "paper")).threads == 16
    few = costs.cost_of(resolved("a3c", "pong", "paper"), cores=2)
    assert few.threads == 2
    assert few.seconds > 2 * costs.cost_of(resolved("a3c", "pong", "paper")).seconds
    for agent, task in (("dqn", "cartpole"), ("ppo", "hopper"), ("bandits", "ucb1")):
        assert costs.cost_of(resolved(agent, task, "paper")).threads == 1


def test_finished_runs_scale_the_table(tmp_path):
    assert costs.speeds_in(tmp_path) == {}
    recorded = json.loads((papers.REPLICATIONS / "dqn/recorded/base/pong/hour/seed1/run.json").read_text())
    for seed, factor in ((1, 2.0), (2, 3.0), (3, 2.5)):
        folder = papers.run_dir("dqn", None, "pong", "hour", seed, tmp_path)
        folder.mkdir(parents=True)
        run = recorded | {"cost": {"steps_per_second": 134 * factor}}
        (folder / "run.json").write_text(json.dumps(run))
    (folder.with_name("seed4")).mkdir()
    (folder.with_name("seed4") / "run.json").write_text("{damaged")
    speeds = costs.speeds_in(tmp_path)
    assert speeds == {("dqn", "atari", "cpu"): 2.5}
    run, other = resolved("dqn", "pong", "paper"), resolved("rainbow", "pong", "paper")
    assert costs.speed_of(run, "cpu", speeds) == costs.speed_of(other, "cpu", speeds) == 2.5
    assert costs.speed_of(run, "cuda", speeds) is None
    assert costs.speed_of(resolved("dqn", "cartpole", "hour"), "cpu", speeds) is None
    assert costs.cost_of(run, faster=2.5).seconds == pytest.approx(costs.cost_of(run).seconds / 2.5)
