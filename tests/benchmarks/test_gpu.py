"""The GPU's benchmark on a CPU: what it asks for, counts, and writes. The tests at the end want a GPU."""

from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import gpu, gpu_subjects, learning, machine
from common import papers
from common.errors import UserError
from common.learning.cuda_graphs import CudaGraphed
from common.runs import run as runs
from replications.dqn.train import Config
from tests.benchmarks.test_papers import Silent

ABOUT = {"machine": {"cpu": "a CPU", "cores": 16, "gpu": "a GPU"}, "load_average": {"start": [0.1, 0.1, 0.1]}}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_without_a_gpu_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"built without CUDA.*--device cpu --quick"):
        gpu.arguments([])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match="no NVIDIA GPU or driver"):
        gpu.arguments(["--quick"])
    with pytest.raises(UserError, match="add --quick"):
        gpu.arguments(["--device", "cpu"])
    assert gpu.arguments(["--device", "cpu", "--quick"]).out.name == "gpu.json"
    assert gpu.arguments(["--device", "cpu", "--quick"]).out.parent.name == "results"


def test_only_a_whole_measurement_is_kept_beside_the_code(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.arguments([]).out == machine.ROOT / "benchmarks" / "gpu.json"
    assert gpu.arguments(["--quick"]).out == machine.ROOT / "results" / "gpu.json"


class Answers(Silent):
    def ask(self, *command):
        self.asked.append(command)
        if self.name == "update":
            return {"eager": 0.0008, "graph": 0.0001, 100: 0.02}[command[1]]
        return {"emulation": {"emulator": 20_000.0}, "dqn_fast": 4.0, "ppo": 2.0}.get(self.name) or {
            "training": 90.0,
            "whole": 120.0,
        }


@pytest.fixture
def answers(monkeypatch):
    Silent.made = []
    monkeypatch.setattr(bench, "Worker", Answers)
    monkeypatch.setattr(machine, "other_load", lambda seconds: 0.0)
    return Silent


def test_every_figure_from_what_the_processes_answer(answers, tmp_path):
    samples, notes = gpu.measure(dataclasses.replace(gpu.FULL, limit=1e9), "cuda", True, 4, tmp_path)
    assert notes == []
    found = json.loads(json.dumps(gpu.results(samples, notes, ABOUT)))
    medians = {name: found[name]["median"] for name in gpu.FIGURES}
    assert medians == {
        "dqn_update_us": 800.0, "dqn_update_graph_us": 100.0, "host_waits_per_update": 0.02,
        "emulator_steps_per_second": 20_000.0, "dqn_fast_steps_per_second": 16_000.0, "dqn_fast_over_emulator": 0.8,
        "ppo_steps_per_second": 10_240.0, "minutes_to_18_on_pong": 1.5, "minutes_to_18_on_pong_with_phases": 2.0,
        "other_load_cores": 0.0,
    }  # fmt: skip
    assert found["dqn_fast_over_emulator"]["n"] == gpu.FULL.rounds
    assert found["quiet"] is True
    verdicts = {name: gpu.figures.verdict(name, found, gpu.FIGURES) for name in gpu.FIGURES}
    assert verdicts["dqn_update_graph_us"] == "met (<= 150)"
    assert verdicts["host_waits_per_update"] == "missed (<= 0)"
    assert verdicts["dqn_fast_steps_per_second"] == "met (>= 12000)"
    assert "the phases' own time excluded" in gpu.figures.table(found, gpu.FIGURES)
    by_name = {worker.name: worker for worker in answers.made}
    assert {name: worker.options.get("device") for name, worker in by_name.items()} == {
        "update": "cuda", "emulation": None, "dqn_fast": "cuda", "ppo": "cuda", "pong": "cuda",
    }  # fmt: skip
    assert by_name["dqn_fast"].options["variant"] == "fast"
    assert by_name["ppo"].options["paper"] == "ppo"
    assert by_name["ppo"].options["settings"] == {"cuda_graph": True}
    assert by_name["emulation"].asked[-1] == ("rates", ("emulator",), 64, gpu.FULL.emulator_steps)


def test_what_a_cpu_has_not_and_what_was_not_asked_for_is_null(answers, tmp_path):
    samples, notes = gpu.measure(gpu.QUICK, "cpu", False, 1, tmp_path)
    about = ABOUT | {"machine": {"cores": 2}}
    found = gpu.results(samples, notes, about)
    assert {name for name in gpu.FIGURES if found[name] is None} == {
        "dqn_update_graph_us", "host_waits_per_update", "minutes_to_18_on_pong", "minutes_to_18_on_pong_with_phases",
    }  # fmt: skip
    assert "no CUDA graph on a CPU" in notes[0]
    assert "not asked for (--pong)" in notes[1]
    assert "this machine has 2" in found["warnings"][0]
    assert found["quiet"] is False


def test_slices_are_whole_steps_and_the_ring_is_the_papers():
    """So that checkpoints, which come with the slots written, are as frequent as in a run."""
    assert gpu.FULL.capacity == Config().replay_capacity
    for plan in (gpu.FULL, gpu.QUICK):
        assert plan.fast_steps % 64 == 0
        assert plan.ppo_steps == learning.whole_iterations("ppo", plan.ppo_steps)
    overrides = gpu.FULL.pong
    settings = papers.resolve("dqn", "fast", "pong", "hour", overrides).settings
    assert (
        settings["training_steps"] == overrides["training_steps"] > 180 * 12_000
    )  # three minutes at the goal


def warn(times: int, text: str = gpu_subjects.WAITS) -> None:
    for _ in range(times):
        warnings.warn(text, stacklevel=1)


def test_waits_are_counted_each_time_and_nothing_else_is(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    assert gpu_subjects.waits(lambda: warn(3)) == 3
    assert gpu_subjects.waits(lambda: warn(2, "something else")) == 0
    assert modes == ["warn", "default"] * 2
    with pytest.raises(ZeroDivisionError):
        gpu_subjects.waits(lambda: 1 / 0)
    assert modes[-1] == "default"


def test_host_waits_per_update(monkeypatch):
    """Counted after the recording; and not believed where a wait on purpose is not seen."""
    subject, trained = object.__new__(gpu_subjects.Updates), []
    subject.loss_sum = torch.zeros(())

    def train(kind, count):
        trained.append((kind, count))
        warn(count // 2)

    subject.train = train
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    with pytest.raises(RuntimeError, match="does not count"):
        subject.host_waits(100)
    real = gpu_subjects.waits
    seen = []
    monkeypatch.setattr(gpu_subjects, "waits", lambda f: real(f) if seen else seen.append(1) or 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert subject.host_waits(100) == 0.5
    assert trained == [("graph", CudaGraphed.WARM_UP + 1), ("graph", 100)]


@pytest.mark.slow
def test_updates_are_the_scripts_on_batches_of_the_ring():
    torch.manual_seed(0)
    updates = gpu_subjects.Updates("cpu", 300)
    assert set(updates.steps) == {"eager"}
    updates.train("eager", 1)
    first = float(updates.loss_sum)
    assert first > 0
    assert updates.seconds("eager", 1) > 0
    assert float(updates.loss_sum) > first


@pytest.mark.slow
def test_pong_ends_with_the_phase_that_is_at_the_score(tmp_path, monkeypatch):
    """Phases of a mean of 3, 18.5 and 20: the second ends it, and its own time is not training."""
    scores = iter([np.array([-21.0, 27.0]), np.array([18.0, 19.0]), np.array([20.0])])
    now = [0.0]

    def phase(run, policy, at):
        now[0] += 1000
        run._evaluation_seconds += 1000
        return next(scores)

    monkeypatch.setattr(runs.Run, "evaluate", phase)
    monkeypatch.setattr(
        gpu_subjects.RunToScore, "_seconds", lambda run: now[0] + run.parts["progress"].agent_steps
    )
    script = gpu_subjects.importlib.import_module("replications.dqn.train")
    monkeypatch.setattr(script, "update", lambda *args: torch.zeros(()))
    tiny = {
        "training_steps": 160,
        "num_envs": 8,
        "replay_capacity": 400,
        "replay_start": 16,
        "held_out_states": 4,
    }
    tiny |= {"evaluation_period": 40}
    found = gpu_subjects.to_score("cpu", 1, tmp_path / "a", tiny)
    assert found == {"training": 80.0, "whole": 2080.0, "agent_steps": 80}
    scores = iter([np.array([])] * 4)
    assert gpu_subjects.to_score("cpu", 1, tmp_path / "b", tiny) is None


# --- with a GPU ---


@needs_gpu
def test_on_a_gpu_a_wait_is_counted_and_an_update_has_none():
    updates = gpu_subjects.Updates("cuda", 2000)
    assert set(updates.steps) == {"eager", "graph"}
    assert updates.host_waits(20) == 0
    assert updates.seconds("graph", 20) > 0
