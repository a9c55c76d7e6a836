"""Every paper is measured: by its own loop, in whole slices, from a quarter on where nothing may pause it; and batches by priority."""

from __future__ import annotations

import dataclasses
import importlib
import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks import __main__ as bench
from benchmarks import figures, learning, machine, prioritised
from benchmarks.process import Finished, Worker, WorkerFailed
from common import papers
from tests.benchmarks.test_benchmarks import Script

KINDS = {
    "training_worker": {"dqn", "dqn_2013", "double_dqn", "prioritized_dqn", "dueling_dqn", "rainbow"},
    "on_policy_worker": {"a2c", "ppo"},
    "asynchronous_worker": {"a3c"},
    "a part of its own, off Pong": {"ddpg"},
}


class Silent:
    """Stands in for a process; answers what it is asked with numbers by its name."""

    made: list = []  # noqa: RUF012 (emptied by the test)

    def __init__(self, name, target, options, folder):
        self.name, self.target, self.options, self.ready, self.asked = name, target, options, "ready", []
        self.closed = 0
        self.made.append(self)

    def ask(self, *command):
        self.asked.append(command)
        if command[0] == "rates":
            return dict.fromkeys(command[1], 900.0)
        return {"dqn_fast": 2.0, "dqn_beside_fast": 4.0, "a3c": 700.0}.get(self.name, 1.0)

    def hang_up(self):
        self.closed += 1

    def close(self):
        self.closed += 1


@pytest.fixture
def silent(monkeypatch):
    Silent.made = []
    monkeypatch.setattr(bench, "Worker", Silent)
    monkeypatch.setattr(machine, "other_load", lambda seconds: 0.0)
    return Silent


def test_every_paper_has_a_figure_and_is_measured(silent, tmp_path):
    """By replications/ itself: a paper that is added must be measured, with a figure that says what it is."""
    plan = dataclasses.replace(bench.FULL, limit=1e9)
    samples, notes = bench.measure(plan, ["dqn", "ppo", "ddpg", "papers"], 1, tmp_path)
    assert [note for note in notes if "Stable" not in note] == []
    for paper in bench.playing_papers():
        name = f"{paper}_steps_per_second"
        assert name in figures.FIGURES, f"benchmarks/figures.py has no {name}"
        assert len(samples[name]) == (plan.rounds if paper in bench.OWN_PARTS else plan.paper_rounds), paper
    assert set().union(*KINDS.values()) == set(bench.playing_papers())
    for worker in silent.made:
        paper = worker.options["paper"]
        if worker.name == paper and paper not in bench.OWN_PARTS:
            kind = worker.target.removeprefix("benchmarks.learning:")
            assert paper in KINDS[kind]
            assert worker.options["children"] == (kind == "asynchronous_worker")


def test_rates_and_the_ratio_of_fast_are_of_the_same_round(silent, tmp_path):
    plan = dataclasses.replace(bench.FULL, limit=1e9)
    samples, _ = bench.measure(plan, ["papers"], 1, tmp_path)
    by_name = {worker.name: worker for worker in silent.made}
    assert samples["a3c_steps_per_second"] == [700.0] * 3  # what it answers is a rate already
    assert by_name["a3c"].asked == [("rate", plan.asynchronous_steps)] * 3
    assert samples["a2c_steps_per_second"] == [960.0] * 3  # 12 iterations of 80
    assert samples["rainbow_steps_per_second"] == [320.0] * 3
    assert samples["dqn_fast_steps_per_second"] == [320.0] * 3  # 640 steps in 2 s
    assert samples["dqn_fast_over_dqn"] == [4.0] * 3  # over 320 steps in 4 s
    fast = by_name["dqn_fast"].options
    assert (fast["paper"], fast["variant"]) == ("dqn", "fast")
    flat = figures.results(samples, 0.5)
    assert flat["dqn_fast_over_dqn"] == {"median": 4.0, "spread": [4.0, 4.0], "unit": "ratio", "n": 3}


def test_all_else_has_ended_before_the_papers_begin(silent, tmp_path, monkeypatch):
    """The full ring's memory and disk are free again."""
    closed = []

    class Watching(Silent):
        def __init__(self, name, *args):
            if name == "a2c":
                closed.extend(worker.closed for worker in Silent.made)
            super().__init__(name, *args)

    monkeypatch.setattr(bench, "Worker", Watching)
    bench.measure(bench.QUICK, ["emulator", "scaling", "papers"], 1, tmp_path)
    assert closed == [2]  # the emulators' process: told to leave, and waited for
    assert not (tmp_path / "emulation").exists()
    assert (tmp_path / "a2c").exists()


def test_a_paper_that_fails_is_left_out_alone(silent, tmp_path, monkeypatch):
    def ask(self, *command):
        if self.name == "rainbow":
            raise WorkerFailed("rainbow: it broke")
        return 1.0

    monkeypatch.setattr(silent, "ask", ask)
    samples, notes = bench.measure(bench.QUICK, ["papers"], 1, tmp_path)
    assert notes == ["rainbow_steps_per_second: rainbow: it broke"]
    assert "rainbow_steps_per_second" not in samples
    assert samples["dqn_2013_steps_per_second"] == [60.0]


def test_a_quick_look_has_no_papers_unless_they_are_asked_for():
    assert bench.arguments(["--quick"]).parts == [name for name in bench.PARTS if name != "papers"]
    assert bench.arguments(["--quick", "--only", "papers"]).parts == ["papers"]
    assert "papers" in bench.arguments([]).parts


# --- the subjects ---


@pytest.mark.parametrize("paper", sorted(KINDS["training_worker"]))
def test_settings_of_a_replay_paper(paper):
    """Learning begins at once, at the paper's own final epsilon; nothing else of the paper changes."""
    config = importlib.import_module(f"replications.{paper}.train").Config()
    settings = learning.throughput_settings(60_000, paper)
    resolved = papers.resolve(paper, None, learning.TASK, "paper", settings).settings
    plain = papers.resolve(paper, None, learning.TASK, "paper").settings
    final = config.final_exploration
    expected = plain | {
        "replay_capacity": 60_000, "replay_start": 200, "initial_exploration": final, "final_exploration": final,
        "evaluation_period": learning.NEVER,
    }  # fmt: skip
    assert resolved == expected


def test_other_papers_have_none_of_these_settings():
    assert learning.throughput_settings(1, "a2c") == {}
    assert learning.throughput_settings(1, "a3c") == {"evaluation_period": learning.NEVER}
    assert learning.whole_iterations("a2c", 81) == 160
    assert learning.whole_iterations("ppo", 1024) == 1024


def test_warm_up_is_whole_steps_and_reaches_learning():
    assert learning.warm_up(1) == learning.WARM_UP == 240
    assert learning.warm_up(64) == 576
    assert all(
        learning.warm_up(n) % n == 0 and learning.warm_up(n) >= 200 + 5 * n for n in (1, 3, 8, 64, 100)
    )


@pytest.mark.slow
def test_the_variant_fast_trains_in_whole_slices(tmp_path, monkeypatch):
    """With 8 environments instead of its 64: a slice of 16 agent steps is two steps of them all, with four updates."""
    connection, opened, original = Script(("steps", 16), ("steps", 8)), [], learning.open_run
    settings = learning.throughput_settings(400) | {"num_envs": 8, "held_out_states": 8, "replay_start": 40}

    def keep(*args, **kwargs):
        opened.append(original(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(learning, "open_run", keep)
    monkeypatch.setattr(learning, "throughput_settings", lambda capacity, paper: settings)
    monkeypatch.setattr(learning, "warm_up", lambda num_envs: 10 * num_envs)
    options = {"paper": "dqn", "variant": "fast", "folder": tmp_path, "threads": 1, "capacity": 400}
    with pytest.raises(Finished):
        learning.training_worker(connection, options)
    run, _, config = opened[0]
    at = run.parts["progress"]
    assert (config.num_envs, config.learn_while_stepping, config.preprocessing) == (8, True, "ale")
    assert at.agent_steps == 80 + 16 + 8
    assert at.updates == (104 - 40) // 4


def test_the_rate_is_taken_after_the_first_quarter():
    """100 steps/s while it starts, 400 afterwards."""
    ticks = [(0, 0.0), (100, 1.0), (180, 1.8), (220, 1.9), (420, 2.4), (820, 3.4)]
    assert learning.rate_after_a_quarter(ticks, 800) == pytest.approx(600 / 1.5)
    with pytest.raises(ValueError, match="take more"):
        learning.rate_after_a_quarter(ticks, 3000)


@pytest.mark.slow
def test_a_real_asynchronous_training_answers_with_a_rate_and_leaves_no_process(tmp_path):
    """Its workers are processes of a process: none may outlive the answer, nor the benchmark."""
    worker = Worker(
        "a3c",
        "tests.benchmarks.test_papers:short_asynchronous_worker",
        {"paper": "a3c", "threads": 1, "folder": tmp_path, "children": True},
        tmp_path,
    )
    mine = psutil.Process(os.getpid())
    try:
        rate = worker.ask("rate", 300)
        assert 1 < rate < 1e5
        known = [child for child in mine.children(recursive=True) if child.pid == worker._process.pid]
        assert len(known) == 1
        assert known[0].children() == []
    finally:
        worker.close()
    assert worker._process.exitcode == 0
    assert not any(Path(tmp_path).rglob("frames.bin"))


def short_asynchronous_worker(connection, options):
    """With ticks close together, so that few steps have several."""
    learning.TickingRun.seconds_between_ticks = 0.002
    learning.asynchronous_worker(connection, options)


def test_an_asynchronous_training_has_the_scripts_workers_for_this_machine(tmp_path, monkeypatch):
    script, seen = importlib.import_module("replications.a3c.train"), []
    monkeypatch.setattr(script, "fit_to_machine", lambda config: {"workers": min(config.workers, 3)})

    def train(config, run):
        seen.append(
            (config.workers, config.training_steps, config.evaluation_period, run.seconds_between_ticks)
        )
        run.ticks += [(0, 0.0), (250, 1.0), (1000, 2.5)]

    monkeypatch.setattr(script, "train", train)
    connection = Script(("rate", 1000), ("rate", 800))
    with pytest.raises(Finished):
        learning.asynchronous_worker(connection, {"paper": "a3c", "threads": 1, "folder": tmp_path})
    assert seen == [(3, n, learning.NEVER, learning.TickingRun.seconds_between_ticks) for n in (1000, 800)]
    assert connection.sent == ["ready", 500.0, 500.0]


# --- priorities ---


@pytest.mark.slow
def test_batches_by_priority_and_uniform_do_the_same_but_for_the_priorities(monkeypatch):
    subject = prioritised.Subject(leaves=3000, frames=700)
    assert prioritised.LEAVES == 1_000_000
    assert len(subject.priorities) == subject.leaves.may_sample(np.zeros(3000, int), np.arange(3000)).sum()
    assert len(np.unique(subject.priorities.order.tree.masses)) > 2000  # not all at the first priority
    gathered, updated = [], []
    real = subject.priorities.update
    monkeypatch.setattr(subject.frames, "gather", lambda indices: gathered.append(indices))
    monkeypatch.setattr(subject.priorities, "update", lambda i, p: (updated.append(i), real(i, p)))
    clock = iter(np.cumsum([0, 1, 0, 3] * 2))  # 1 s for each uniform batch, 3 s for the other
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    assert subject.sample(2) == {"uniform": 1000.0, "priorities": 3000.0}
    assert [g.shape for g in gathered] == [(32, 2)] * 4
    assert max(g[:, 1].max() for g in gathered) < 700
    assert len(updated) == 2
    assert np.array_equal(updated[0][:, 1] % 700, gathered[1][:, 1])
