"""What jobs ask for, and what a whole request costs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from common.needs import Needs, number
from common.runs import costs
from common.workflow import Flow


def job(rule: str, agent: str, task: str, size: str, seed: int = 1) -> SimpleNamespace:
    wildcards = SimpleNamespace(agent=agent, task=task, size=size, seed=str(seed))
    return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=wildcards)


def needs(**config) -> Needs:
    return Flow(config).needs


def test_a_cluster_is_asked_for_half_as_much_again_and_no_longer_than_it_lets_a_job_run(tmp_path):
    at = {"results": str(tmp_path), "device": "cpu", "budget": "paper"}
    dqn = job("train", "dqn", "pong", "paper").wildcards
    here, cluster = needs(**at), needs(**at, longest_job=24)
    cluster.here = False
    assert here.mem_mb(dqn) == pytest.approx(8400, rel=0.05)
    assert cluster.mem_mb(dqn) == pytest.approx(1.5 * here.mem_mb(dqn), rel=0.02)
    assert cluster.runtime(dqn) == 24 * 60
    assert here.runtime(dqn) > 100 * 60
    cluster.cut_into_pieces([cluster.flow.target("dqn_pong")])
    assert cluster.attempts == 3 + 6  # 165 hours are seven days of a day each
    here.cut_into_pieces([here.flow.target("dqn_pong")])
    assert here.attempts is None
    small = job("train", "dqn", "cartpole", "hour").wildcards
    assert (cluster.mem_mb(small), cluster.threads(small)) == (600, 1)
    assert cluster.runtime(small) <= 15


def test_each_job_goes_to_the_partition_it_can_use(tmp_path):
    at = {"results": str(tmp_path), "device": "cuda", "partition_cpu": "thin", "partition_gpu": "fat"}
    found = needs(**at)
    for agent, task, partition, cpus in (
        ("dqn", "pong", "fat", None), ("dqn-fast", "pong", "fat", 16), ("ppo", "pong", "fat", 8), ("dqn", "cartpole", "thin", None),
        ("a3c", "pong", "thin", None), ("bandits", "ucb1", "thin", None),
    ):  # fmt: skip
        wildcards = job("train", agent, task, "paper").wildcards
        assert (found.partition(wildcards), found.cpus(wildcards)) == (partition, cpus), agent
    assert needs(results=str(tmp_path)).partition(job("train", "dqn", "pong", "paper").wildcards) is None


def test_the_sum(tmp_path, monkeypatch):
    monkeypatch.setitem(costs.table()["ddpg"]["pendulum"], "of", "estimate")
    found = needs(results=str(tmp_path), device="cuda")
    found.here = False
    jobs = [job("train", "dqn", "pong", "paper", seed) for seed in (1, 2)] + [job("report", "", "", "")]
    one = found.cost_of(found.flow.target("dqn_pong"), "paper")
    text = "\n".join(found.sum_up(jobs))
    hours = 2 * one.seconds / 3600
    assert (
        f"in sum: 2 runs to train, {number(4 * hours)} core hours, {number(hours)} GPU hours, 0.06 GB of disk"
        in text
    )
    assert "no run on a GPU is finished here" in text
    assert "and up to 8 GB more for each that trains" in text
    assert "estimates" not in text
    more = "\n".join(
        found.sum_up(
            [*jobs, job("evaluate", "dqn", "pong", "paper"), job("train", "ddpg", "pendulum", "paper")]
        )
    )
    assert "3 runs" in more
    assert "estimates, never measured: ddpg" in more
    assert found.sum_up([job("report", "", "", "")]) == []
    assert costs.margin() == 1.5
