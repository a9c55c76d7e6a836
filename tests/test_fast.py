"""What makes the value-based scripts fast changes nothing but what is said: learning while the emulators step is learning before
their answer is stored, and an update as a CUDA graph is the same update. Without a GPU the graph is stood in for (`NoGPU`); the
tests at the end want one.
"""

from __future__ import annotations

import contextlib
import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from common import papers
from common.environments.atari import AtariEnvs
from common.learning import fast
from common.learning.cuda_graphs import CudaGraphed
from common.learning.replay import Replay
from common.learning.replay_on_device import ReplayOnDevice
from common.runs.command_line import prepare
from common.runs.run import Run
from tests.training import TINY, train

FAMILY = ("dqn_2013", "dqn", "double_dqn", "prioritized_dqn", "dueling_dqn", "rainbow")
SHORT = {"training_steps": 800, "replay_capacity": 400, "replay_start": 200, "evaluation_period": 400}
SHORT |= {"evaluation_steps": 100, "held_out_states": 20}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def outcome(folder) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "curve.csv", "episodes.csv")]


# --- learning while the emulators step ---


def test_updates_beside_the_emulators_are_those_without_the_steps_under_way(tmp_path, monkeypatch):
    """The emulators' threads and the updates at once; emulators that wait until they are asked; and the paper's order."""
    fast = TINY | {"num_envs": 4, "training_steps": 300, "evaluation_period": 150, "evaluation_steps": 40}
    beside = outcome(train("dqn", "breakout", tmp_path / "a", fast | {"learn_while_stepping": True}))
    after = outcome(train("dqn", "breakout", tmp_path / "c", fast | {"learn_while_stepping": False}))

    send, recv, gather = AtariEnvs._send, AtariEnvs._recv, Replay.gather
    stepping: set[int] = set()  # environments whose step is under way
    seen = []

    def hold(self, actions):
        stepping.add(id(self))
        self.held = np.array(actions)

    def step_now(self):
        stepping.discard(id(self))
        send(self, self.held)
        return recv(self)

    def look(self, flat_indices):
        seen.append((bool(stepping), self.written.sum() + 4 * bool(stepping)))
        return gather(self, flat_indices)

    monkeypatch.setattr(AtariEnvs, "_send", hold)
    monkeypatch.setattr(AtariEnvs, "_recv", step_now)
    monkeypatch.setattr(Replay, "gather", look)
    waiting = outcome(train("dqn", "breakout", tmp_path / "b", fast | {"learn_while_stepping": True}))
    assert waiting == beside
    assert waiting != after
    under_way = [stored for busy, stored in seen if busy]
    assert (
        len(under_way) == (300 - 100) // 4 == len(seen) - 1
    )  # every update; the held-out states come between steps
    assert under_way[0] > 100


@pytest.mark.parametrize("paper", FAMILY)
def test_every_script_has_the_order(paper, tmp_path, monkeypatch):
    """While the emulators step, not one update sees the transitions under way; in the paper's order, each sees them all."""
    stored: list[int] = []  # transitions, at each update

    def flat_indices(self, indices):
        stored.append(int(self.complete.sum()))
        return indices

    monkeypatch.setattr(Replay, "flat_indices", flat_indices)
    size = SHORT | {"training_steps": 260, "replay_capacity": 300, "num_envs": 4, "update_period": 4}
    train(paper, "cartpole", tmp_path / "beside", size | {"learn_while_stepping": True})
    assert stored == list(range(200, 260, 4))
    stored.clear()
    train(paper, "cartpole", tmp_path / "after", size)
    assert stored == list(range(204, 264, 4))


# --- numbers of 16 bits ---

ROUNDS = ("dqn", "double_dqn", "prioritized_dqn", "dueling_dqn")


def gradient_of(network: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
    network.zero_grad()
    out = network(states)
    assert out.dtype == torch.float32
    out.square().sum().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def output_bias(network: torch.nn.Module) -> torch.Tensor:
    """(A,), or (1,) where two streams are put together: what is added to it is added to all action values."""
    head = network.layers[-1]
    return (head.values[-1] if hasattr(head, "values") else head).bias


@pytest.mark.parametrize("paper", ROUNDS)
def test_bfloat16_rounds_the_products_and_nothing_else(paper, monkeypatch):
    script = importlib.import_module(f"replications.{paper}.train")
    torch.manual_seed(0)
    network = script.make_network(script.Config(), SimpleNamespace(num_actions=6, obs_shape=(84, 84)))
    states = torch.randint(0, 256, (32, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        plain = network(states)
    gradient = gradient_of(network, states)

    monkeypatch.setattr(fast, "has_bfloat16", lambda device_type: False)
    fast.in_bfloat16(network)
    assert torch.equal(network(states), plain)

    monkeypatch.setattr(fast, "has_bfloat16", lambda device_type: True)
    fast.in_bfloat16(network)
    rounded = gradient_of(network, states)
    assert rounded.dtype == torch.float32
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert 1e-4 < (rounded - gradient).norm() / gradient.norm() < 0.05  # bfloat16 has 8 bits
    with torch.no_grad():  # the values are not rounded: near 100 those of 8 bits lie 0.5 apart
        values = network(states)
        output_bias(network).add_(100)
        torch.testing.assert_close(network(states) - 100, values, rtol=0, atol=1e-4)
    with torch.no_grad():  # weights that an update changed are rounded anew
        for p in network.parameters():
            p.zero_()
        assert not network(states).any()


@pytest.mark.parametrize("paper", ROUNDS)
def test_every_script_rounds_the_networks_that_learn_and_bootstrap(paper, tmp_path, monkeypatch):
    script, resume = importlib.import_module(f"replications.{paper}.train"), Run.resume
    rounded, used = [], []
    monkeypatch.setattr(script, "in_bfloat16", lambda *networks: rounded.extend(networks))
    monkeypatch.setattr(
        Run, "resume", lambda run, *a, **k: used.extend((k["q"], k["target"])) or resume(run, *a, **k)
    )
    size = SHORT | {"training_steps": 20}
    train(paper, "cartpole", tmp_path / "plain", size)
    assert rounded == []
    used.clear()
    train(paper, "cartpole", tmp_path / "fast", size | {"bfloat16": True})
    assert [id(network) for network in rounded] == [id(network) for network in used]


# --- an update as one graph ---


class Recording(TorchDispatchMode):
    """Whatever is written meanwhile is put back at the end, and a look at a number is an error: as while CUDA records."""

    LOOKS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")

    def __init__(self):
        super().__init__()
        self.written: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.generator = torch.get_rng_state()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function._schema.name in self.LOOKS:
            raise RuntimeError(f"{function._schema.name} waits for the host")
        options = options or {}
        for given, declared in zip(arguments, function._schema.arguments, strict=False):
            self._keep(given, declared)
        for declared in function._schema.arguments:
            self._keep(options.get(declared.name), declared)
        return function(*arguments, **options)

    def _keep(self, given, declared):
        if given is not None and declared.alias_info is not None and declared.alias_info.is_write:
            for tensor in given if isinstance(given, list | tuple) else [given]:
                self.written.append((tensor, tensor.detach().clone()))

    def restore(self):
        for tensor, before in reversed(self.written):
            tensor.copy_(before)
        torch.set_rng_state(self.generator)


class NoGPU:
    """Stands in for CUDA's graphs on a CPU. Recording runs nothing and allows no look at a number, like the real one."""

    def __init__(self, monkeypatch):
        self.recorded = self.played = self.before = 0
        monkeypatch.setattr(CudaGraphed, "_aside", self.aside)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self.Graph(self))
        monkeypatch.setattr(torch.cuda, "graph", self.record)
        monkeypatch.setattr(Replay, "_make_copy", lambda replay: ReplayOnDevice(replay, "cpu"))
        call = CudaGraphed.__call__

        def called(captured, *inputs):
            self.captured = captured
            return call(captured, *inputs)

        monkeypatch.setattr(CudaGraphed, "__call__", called)

    def aside(self, *inputs):
        self.before += 1
        return self.captured.function(*inputs)

    @contextlib.contextmanager
    def record(self, graph):
        self.recorded += 1
        with Recording() as recording:
            yield
        with torch.no_grad():
            recording.restore()

    class Graph:
        def __init__(self, cuda):
            self.cuda, self.captured, self.outputs = cuda, cuda.captured, None

        def replay(self):
            self.cuda.played += 1
            outputs = self.captured.function(*self.captured.inputs)
            if self.outputs is None:
                self.outputs = self.captured.outputs = outputs
            for mine, new in zip(
                *(x if isinstance(x, tuple) else (x,) for x in (self.outputs, outputs)), strict=True
            ):
                if mine is not None:
                    mine.copy_(new)  # into the same memory, as a graph's


@pytest.mark.parametrize(("paper", "task"), [*((paper, "cartpole") for paper in FAMILY), ("dqn", "breakout")])
def test_an_update_as_a_graph_is_the_same_update(paper, task, tmp_path, monkeypatch):
    """Every script to its end, batches made by the GPU's path and the update recorded: the same bytes."""
    size = SHORT if task == "cartpole" else TINY | {"training_steps": 300, "evaluation_steps": 40}
    plain = outcome(train(paper, task, tmp_path / "plain", size))
    cuda = NoGPU(monkeypatch)
    assert outcome(train(paper, task, tmp_path / "graph", size | {"cuda_graph": True})) == plain
    assert (cuda.before, cuda.recorded) == (CudaGraphed.WARM_UP, 1)
    assert cuda.played > 20


@pytest.mark.parametrize("variant", [None, "ppo2"])
@pytest.mark.slow
def test_ppos_acting_and_gradient_steps_as_graphs_are_the_same(variant, tmp_path, monkeypatch):
    size = {
        "training_steps": 512,
        "num_envs": 2,
        "rollout_steps": 64,
        "minibatch_size": 32,
        "log_period": 256,
    }
    plain = outcome(train("ppo", "breakout", tmp_path / "plain", size, variant=variant))
    cuda = NoGPU(monkeypatch)

    class AlwaysOn(CudaGraphed):
        def __init__(self, function, on):
            super().__init__(function, on=True)

        def __call__(
            self, *inputs
        ):  # on a GPU the rates are a tensor, and what is read is copied to the host
            inputs = (torch.tensor(x, dtype=torch.float64) if isinstance(x, tuple) else x for x in inputs)
            outputs = super().__call__(*inputs)
            copies = (None if x is None else x.detach().clone() for x in outputs)
            return outputs._make(copies) if hasattr(outputs, "_make") else tuple(copies)

    monkeypatch.setattr(importlib.import_module("replications.ppo.train"), "CudaGraphed", AlwaysOn)
    assert outcome(train("ppo", "breakout", tmp_path / "graph", size, variant=variant)) == plain
    epochs = 4 if variant else 3
    assert (cuda.before, cuda.recorded) == (2 * CudaGraphed.WARM_UP, 2)
    assert cuda.played == 4 * (65 + epochs * 4) - 2 * CudaGraphed.WARM_UP


def test_what_waits_for_the_host_cannot_be_recorded(monkeypatch):
    """The stand-in is as strict as CUDA: a number that is looked at ends the recording."""
    NoGPU(monkeypatch)
    total = torch.zeros(())

    def looks(x):
        total.add_(x.sum())
        return total if float(total) > 0 else -total

    captured = CudaGraphed(looks, on=True)
    for _ in range(CudaGraphed.WARM_UP):
        captured(torch.ones(3))
    with pytest.raises(RuntimeError, match="waits for the host"):
        captured(torch.ones(3))


def test_a_graph_is_given_the_newest_inputs(monkeypatch):
    NoGPU(monkeypatch)
    total = torch.zeros(())
    captured = CudaGraphed(lambda x, y: total.add_((x * y).sum()), on=True)
    for k in range(8):
        captured(torch.full((2,), float(k)), torch.tensor([1.0, 10.0]))
    assert float(total) == sum(11 * k for k in range(8))


def test_off_it_is_the_function_itself():
    assert CudaGraphed(lambda x: x + 1, on=False)(2) == 3


# --- with a GPU ---


@needs_gpu
@pytest.mark.parametrize("paper", [*FAMILY, "ppo"])
def test_on_a_gpu_graph_and_plain_agree_and_nothing_waits(paper, tmp_path, monkeypatch):
    """40 updates of the real network on real frames: weights to 1e-4; after the recording no call waits for the GPU."""
    script = importlib.import_module(f"replications.{paper}.train")
    size = TINY | {"training_steps": 260}
    if paper == "ppo":
        size = {
            "training_steps": 512,
            "num_envs": 2,
            "rollout_steps": 64,
            "minibatch_size": 32,
            "log_period": 256,
        }
    call = CudaGraphed.__call__

    def watched(self, *inputs):
        if self.graph is None:
            return call(self, *inputs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return call(self, *inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(CudaGraphed, "__call__", watched)
    weights = []
    for graph in (False, True):
        resolved = papers.resolve(paper, None, "breakout", "smoke", size | {"cuda_graph": graph})
        run = Run(resolved, 1, device="cuda", threads=prepare(1, 1), results=tmp_path / str(graph))
        run.open()
        script.train(script.Config(**resolved.settings), run)
        run.close()
        weights.append(load_file(run.folder.path / "model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-4)


@needs_gpu
def test_on_a_gpu_the_memory_gives_the_same_batches():
    one, two = Replay(600, (84, 84), num_envs=2), Replay(600, (84, 84), num_envs=2, device="cuda")
    rng = np.random.default_rng(0)
    for memory in (one, two):
        memory.begin_episodes(np.zeros((2, 84, 84), np.uint8))
    for t in range(700):
        frames, over = rng.integers(0, 255, (2, 84, 84), dtype=np.uint8), rng.random(2) < 0.05
        for memory in (one, two):
            memory.add(np.array([t % 4, 1]), np.array([1.0, -1.0]), over, frames)
            if over.any():
                memory.begin_episodes(frames, over)
    a, b = (memory.sample(np.random.default_rng(1), 256) for memory in (one, two))
    for name in ("states", "actions", "rewards", "next_states", "terminals"):
        assert torch.equal(getattr(a, name), getattr(b, name).cpu()), name
    assert torch.equal(one.current(), two.current().cpu())
