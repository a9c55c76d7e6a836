"""The benchmark's arithmetic on invented timings, its processes, and tiny real runs. Nothing here looks at a clock."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import os
import tomllib
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import emulation, figures, learning, machine
from benchmarks.process import Finished, Gate, Worker, WorkerFailed
from common import papers
from common.environments import atari
from common.errors import UserError
from replications.dqn.train import Config

ROOT = Path(__file__).resolve().parent.parent.parent
ABOUT = {
    "date": "2026-01-02T03:04:05+00:00",
    "mode": "full",
    "machine": {"cpu": "a <CPU>", "cores": 2},
    "load_average": {"start": [0.1, 0.1, 0.1], "end": [1.0, 1.0, 1.0]},
}
# three rounds; of the second subject of a pair the machine was twice as slow in the middle one, and so of the first
SAMPLES = {
    "emulator_steps_per_second": [2000.0, 1000.0, 2000.0],
    "env_ale_steps_per_second": [1900.0, 960.0, 1960.0],
    "dqn_steps_per_second": [100.0, 60.0, 120.0],
    "sb3_dqn_steps_per_second": [50.0, 20.0, 48.0],
    "dqn_evaluation_steps_per_second": [400.0, 400.0, 300.0],
    "other_load_cores": [0.0, 0.01, 0.0],
    "emulator_steps_per_second_2": [3000.0],
    "emulator_steps_per_second_16": [5000.0],
    "env_ale_steps_per_second_16": [4000.0],
    "rss_gb_500000": [4.0],
    "rss_gb_1000000": [7.5],
    "sb3_replay_gb_per_million": [56.46],
}


# --- arithmetic ---


def test_a_summary_is_median_smallest_largest_unit_and_count():
    assert figures.summary([3.0, 1.0, 10.0, 2.0], "ms") == {
        "median": 2.5,
        "spread": [1.0, 10.0],
        "unit": "ms",
        "n": 4,
    }
    assert figures.summary([1 / 3], "ratio")["median"] == 0.33333
    with pytest.raises(ValueError, match="nan"):
        figures.summary([1.0, math.nan], "ms")


def test_ratios_are_taken_round_by_round():
    """Medians of each would give 100 / 48; round by round it is the median of 2, 3 and 2.5."""
    flat = figures.results(SAMPLES, 0.5)
    assert flat["dqn_over_sb3"] == {"median": 2.5, "spread": [2.0, 3.0], "unit": "ratio", "n": 3}
    assert flat["env_over_bare"] == {"median": 0.96, "spread": [0.95, 0.98], "unit": "ratio", "n": 3}
    assert flat["dqn_over_emulator"]["median"] == 0.06
    assert figures.ratios([6.0, 8.0], [2.0]) == [3.0]  # a round that only one finished


def test_training_with_evaluation_phases():
    """100 steps/s and half a step more at 400/s: 1 / (0.01 + 0.00125)."""
    assert figures.with_evaluation([100.0], [400.0], 0.5) == [pytest.approx(88.8889, abs=1e-4)]
    assert figures.results(SAMPLES, 0.5)["dqn_steps_per_second_with_evaluation"]["spread"][0] == 55.814
    config = Config()
    assert config.evaluation_steps / config.evaluation_period == bench.EVALUATION_SHARE


def test_what_was_not_measured_is_null_and_so_are_its_ratios():
    flat = figures.results({k: v for k, v in SAMPLES.items() if not k.startswith("sb3")}, 0.5)
    assert flat["sb3_dqn_steps_per_second"] is None
    assert flat["dqn_over_sb3"] is None
    assert flat["peak_rss_gb"] is None
    assert flat["dqn_over_emulator"] is not None
    assert figures.results({"dqn_update_ms": []}, 0.5)["dqn_update_ms"] is None
    assert "not measured" in figures.table(flat)


def test_results_json_is_flat():
    """The keys that others read; every figure has the four parts or is null; sizes are figures of their own."""
    found = json.loads(json.dumps(bench.report(SAMPLES, ["a note"], ABOUT)))
    asked = "dqn_over_sb3 env_over_bare replay_sample_ms dqn_update_ms dqn_over_emulator replay_gb_per_million peak_rss_gb"
    assert set(asked.split()) < set(figures.FIGURES) < set(found)
    assert {name for name in found if name not in figures.FIGURES} == {
        *ABOUT, "quiet", "warnings", "notes", "emulator_steps_per_second_2", "emulator_steps_per_second_16",
        "env_ale_steps_per_second_16", "rss_gb_500000", "rss_gb_1000000",
    }  # fmt: skip
    measured = [v for k, v in found.items() if isinstance(v, dict) and k not in ABOUT]
    assert len(measured) == 16
    for value in measured:
        assert set(value) == {"median", "spread", "unit", "n"}
        assert value["spread"][0] <= value["median"] <= value["spread"][1]
    assert found["rss_gb_1000000"]["unit"] == "GB"
    assert found["quiet"] is True


def test_sizes_are_sorted_by_number():
    flat = figures.results(SAMPLES, 0.5)
    assert [n for n, _ in figures.by_size(flat, figures.SCALING, kind="emulator")] == [2, 16]
    assert [n for n, _ in figures.by_size(flat, figures.RESIDENT)] == [500_000, 1_000_000]


def test_goals():
    flat = figures.results(SAMPLES, 0.5)
    assert figures.verdict("dqn_over_sb3", flat) == "met (>= 1.5)"
    assert figures.verdict("peak_rss_gb", {"peak_rss_gb": {"median": 8.6}}) == "missed (<= 8.5)"
    assert figures.verdict("peak_rss_gb", flat) == ""
    assert figures.verdict("sb3_dqn_steps_per_second", flat) == ""


def test_a_busy_machine_is_said_to_be_one():
    assert machine.complaints(0.2, 0.05) == []
    assert "load average 1.90" in machine.complaints(1.9, None)[0]
    busy = bench.report(SAMPLES | {"other_load_cores": [0.0, 0.9, 1.1]}, [], ABOUT)
    assert busy["quiet"] is False
    assert "0.90 cores" in busy["warnings"][0]


# --- the command line ---


def test_only_a_whole_measurement_replaces_the_results():
    assert bench.arguments([]).out == ROOT / "benchmarks" / "results.json"
    assert bench.arguments(["--quick"]).out == ROOT / "results" / "benchmark.json"
    only = bench.arguments(["--only", "update,emulator"])
    assert (only.parts, only.out.name) == (["update", "emulator"], "benchmark.json")
    assert bench.arguments(["--quick", "--out", "x.json"]).out == Path("x.json")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--only", "emulatr"], "emulator"),
        (["--threads", "-1"], "0 or more"),
        (["--out", "results"], ".json"),
    ],
)
def test_bad_arguments(given, said):
    with pytest.raises(UserError, match=said):
        bench.arguments(given)


def test_the_peer_is_the_version_of_the_lock():
    lock = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    peer = next(p["version"] for p in lock if p["name"] == "stable-baselines3")
    assert f"stable-baselines3=={peer}\n" in (ROOT / "benchmarks" / "requirements.txt").read_text()


# --- processes ---


def test_a_process_answers_until_it_fails(tmp_path):
    commands = {"negate": operator.neg, "leave": os._exit}
    worker = Worker("w", "benchmarks.process:serve", commands, tmp_path)
    assert worker.ready == "ready"
    assert worker.ask("negate", 3) == -3
    with pytest.raises(WorkerFailed, match="the process died"):
        worker.ask("leave", 3)
    worker.close()
    worker = Worker("v", "benchmarks.process:serve", commands, tmp_path)
    with pytest.raises(WorkerFailed, match="v: TypeError"):
        worker.ask("negate", "three")
    with pytest.raises(WorkerFailed, match="v: TypeError"):  # and keeps saying why
        worker.ask("negate", 3)
    worker.close()


class Script:
    """A connection whose parent has these commands to give, then leaves."""

    def __init__(self, *commands):
        self.commands, self.sent = list(commands), []

    def send(self, value):
        self.sent.append(value)

    def recv(self):
        if not self.commands:
            raise Finished
        return self.commands.pop(0)


def test_a_gate_lets_through_as_many_steps_as_were_asked_for():
    connection, passed = Script(("steps", 5), ("steps", 2)), []
    gate = Gate(connection, 3, ready=7056)

    def loop():
        for step in range(100):
            if gate(step):
                passed.append(step)

    with pytest.raises(Finished):
        loop()
    assert passed == [3, 8]  # and at 10 the parent had left
    assert connection.sent[0] == 7056
    assert [type(s) for s in connection.sent[1:]] == [float, float]


def test_rounds_alternate_and_leave_out_what_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "other_load", lambda seconds: 0.0)
    order = []

    class Named:
        ready = "ready"

        def __init__(self, name):
            self.name = name

    def measure(name, fails=False):
        order.append(name)
        if fails and order.count(name) == 2:
            raise WorkerFailed("it broke")
        return {name: 1.0}

    subject = bench.Bench(bench.QUICK, tmp_path, 1)
    subject.probe(Named("a"), ("a",), lambda: measure("a"))
    subject.probe(Named("b"), ("b",), lambda: measure("b", fails=True))
    subject.probe(Named("a"), ("a",), lambda: measure("a"))  # two parts may ask for the same
    subject.run(subject.rounds, 3, "test")
    assert order == ["a", "b", "a", "b", "a"]
    assert subject.samples["a"] == [1.0] * 3
    assert subject.notes == ["b: it broke"]
    subject.began -= 1000
    subject.run(subject.rounds, 3, "late")
    assert len(subject.samples["a"]) == 4
    assert subject.notes[-1] == "late: 1 of 3 rounds, for lack of time"


# --- the subjects ---


def test_a_probe_that_measures_more_takes_the_place_of_one_that_measures_less(tmp_path):
    subject = bench.Bench(bench.QUICK, tmp_path, 1)
    for names in (("a",), ("b",), ("a", "c"), ("a",), ("c",)):
        subject.probe(None, names, dict)
    assert [probe.names for probe in subject.rounds] == [("b",), ("a", "c")]


def test_kinds_of_emulation_take_turns_and_rates_are_of_all_turns(monkeypatch):
    order = []

    def subject(kind, num_envs):
        def run(calls):
            order.append((kind, num_envs, calls))
            return {"emulator": 1.0, "env_ale": 2.0}[kind] * (2.0 if len(order) > 10 else 1.0)

        return run

    monkeypatch.setattr(emulation, "subject", subject)
    commands = {}
    monkeypatch.setattr(emulation, "serve", lambda connection, given: commands.update(given))
    emulation.worker(None, {})
    found = commands["rates"](("emulator", "env_ale"), 4, 1200)
    assert order == [("emulator", 4, 30), ("env_ale", 4, 30)] * 10
    assert found == {"emulator": 1200 / 15, "env_ale": 1200 / 30}


def test_the_bare_emulator_has_the_layers_settings(monkeypatch):
    """Or the ratio of the two would compare different things."""
    made = []

    class Recorder:
        single_action_space = type("Space", (), {"n": 6})

        def __init__(self, *args, **kwargs):
            made.append((args, kwargs))

    monkeypatch.setattr(emulation, "AtariVectorEnv", Recorder)
    monkeypatch.setattr(atari, "AtariVectorEnv", Recorder)
    for rgb, preprocessing in ((False, "ale"), (True, "nature")):
        emulation.bare(3, rgb)
        emulation.layer(3, preprocessing)
        assert made[-1] == made[-2]
    config = Config()
    assert (config.noop_max, config.frame_skip) == (emulation.NOOP_MAX, emulation.FRAME_SKIP)


def test_training_differs_from_the_paper_only_as_stated():
    settings = learning.throughput_settings(200_000)
    assert Config().final_exploration == learning.EXPLORATION
    assert set(settings) == {
        "replay_capacity", "replay_start", "initial_exploration", "final_exploration", "evaluation_period",
    }  # fmt: skip
    resolved = papers.resolve(
        "dqn", None, learning.TASK, "paper", {"training_steps": learning.NEVER} | settings
    )
    changed = {k for k, v in resolved.settings.items() if v != getattr(Config(), k)}
    assert changed == set(settings) - {"final_exploration"} | {"training_steps"}
    # neither a checkpoint nor a copy of the target network falls into a timed slice
    for plan in (bench.FULL, bench.QUICK):
        steps = learning.WARM_UP + plan.rounds * plan.training_steps
        assert steps < min(plan.training_capacity // 10 // 4, Config().target_period)
        steps = learning.WARM_UP + plan.paper_rounds * plan.training_steps
        assert steps < min(plan.paper_capacity // 10 // 4, Config().target_period)
        steps = learning.warm_up(64) + plan.paper_rounds * plan.fast_steps
        assert plan.fast_steps % 64 == 0
        assert steps // 64 < plan.training_capacity // 10 // 64 // 4  # slots of one environment's ring


@pytest.mark.slow
def test_the_scripts_own_loop_trains_in_slices(tmp_path, monkeypatch):
    connection, runs = Script(("steps", 8), ("steps", 4)), []
    original = learning.open_run

    def keep(*args, **kwargs):
        runs.append(original(*args, **kwargs))
        return runs[-1]

    monkeypatch.setattr(learning, "open_run", keep)
    options = {"paper": "dqn", "folder": tmp_path, "threads": 1, "capacity": 1000}
    with pytest.raises(Finished):
        learning.training_worker(connection, options)
    assert connection.sent[0] == "ready"
    assert len(connection.sent) == 3
    at = runs[0][0].parts["progress"]
    assert at.agent_steps == learning.WARM_UP + 12
    assert at.updates == (at.agent_steps - learning.REPLAY_START) // 4


@pytest.mark.slow
def test_a_tiny_run_of_replay_and_memory(tmp_path, monkeypatch):
    """A million transitions are 7.056 GB and the stated slack of a tenth, to the byte; index arrays are 8 bytes a slot."""
    monkeypatch.setattr(machine, "other_load", lambda seconds: 0.0)
    plan = dataclasses.replace(
        bench.QUICK, rounds=2, capacity=3000, samples=3, soak=1, checkpoint_steps=20, limit=1e9, whole=True
    )
    samples, notes = bench.measure(plan, ["replay", "memory"], 1, tmp_path)
    assert notes == []
    assert samples["replay_slack_gb_per_million"] == [pytest.approx(0.7056, rel=1e-12)]
    assert samples["replay_gb_per_million"] == [pytest.approx(7.056 + 0.7056, rel=1e-12)]
    assert samples["replay_index_gb_per_million"] == [pytest.approx(0.0088, rel=1e-12)]
    assert samples["replay_transitions"] == [3000]
    assert (tmp_path / "replay/dqn/pong/paper/seed1/checkpoint/frames.bin").stat().st_size == 3300 * 84 * 84
    assert sorted((tmp_path / "replay/dqn/pong/paper/seed1/checkpoint").glob("step-*/manifest.json"))
    once = {
        "rss_empty_gb",
        "rss_full_gb",
        "rss_growth_gb",
        "peak_rss_gb",
        *(f"rss_gb_{330 * k}" for k in range(1, 11)),
    }
    assert {name: len(samples[name]) for name in once} == dict.fromkeys(once, 1)
    twice = ("replay_sample_ms", "checkpoint_stall_seconds", "checkpoint_write_seconds", "other_load_cores")
    assert {name: len(samples[name]) for name in twice} == dict.fromkeys(twice, 2)
    assert samples["peak_rss_gb"][0] >= samples["rss_full_gb"][0] > 0.0233  # the ring's pages are counted


def test_a_failing_process_is_a_note_and_nulls(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "other_load", lambda seconds: 0.0)
    monkeypatch.setattr(
        bench, "Worker", lambda *args: (_ for _ in ()).throw(WorkerFailed("it does not start"))
    )
    samples, notes = bench.measure(bench.QUICK, ["update", "emulator"], 1, tmp_path)
    assert notes == ["update is left out: it does not start", "emulator is left out: it does not start"]
    assert bench.report(samples, notes, ABOUT)["dqn_update_ms"] is None


def test_no_room_for_a_full_ring(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5e9}))
    subject = bench.Bench(bench.FULL, tmp_path, 1)
    bench.replay(subject)
    bench.memory(subject)
    assert subject.workers == {}
    assert all("5.0 GB free on the results' disk, needed are 8.8" in note for note in subject.notes)


# --- the time line ---
