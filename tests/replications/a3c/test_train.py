"""A3C against hand-computed numbers, against NumPy in float64, and its workers one by one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from common.environments.vector import GymEnvs
from common.evaluation.protocol import play_group, play_steps
from common.papers import check_defaults, find_task, load_paper, resolve
from replications.a3c.playing import sample
from replications.a3c.rollout import Rollout, n_step_returns
from replications.a3c.train import (
    METHODS,
    ActorLearner,
    Config,
    Network,
    Shared,
    SharedRMSProp,
    a3c_losses,
    fit_to_machine,
    learning_rate,
    make_network,
    make_policy,
)
from replications.a3c.value_based import FINAL_EXPLORATION, exploration, one_step_targets
from tests.training import on_numbers, spaces

PAPER = Config()
CARTPOLE = dataclasses.replace(
    PAPER,
    network="mlp",
    stack=1,
    frame_skip=1,
    noop_max=0,
    workers=1,
    training_steps=100_000,
    target_period=8,
)
TASK = find_task(load_paper("a3c"), None, "cartpole")[1]
VALUE_BASED = ("n_step_q", "one_step_q", "one_step_sarsa")


def learner(
    config: Config = CARTPOLE, task=TASK, seed: int = 3, index: int = 0, actions: int = 2, shape=(4,)
):
    torch.manual_seed(seed)
    shared = Shared(config, spaces(actions, shape))
    return shared, ActorLearner(index, config, task, seed, shared)


def test_defaults_are_the_papers():
    assert check_defaults(load_paper("a3c")) == []


def test_returns_oracle():
    returns = n_step_returns(torch.tensor([1.0, 0.0, 2.0]), 10.0, 0.9)
    assert returns.tolist() == pytest.approx([9.91, 9.9, 11])
    assert n_step_returns(torch.tensor([1.0, 0.0, 2.0]), 0.0, 0.9).tolist() == pytest.approx([2.62, 1.8, 2])


def test_value_gradient_is_the_authors_half():
    """V = 2, R = 5: dLoss/dV = (V - R) / 2 = -1.5; the printed formula would give -6."""
    values = torch.tensor([2.0, 2.0], requires_grad=True)
    logits = torch.zeros(2, 4, requires_grad=True)
    _, value_loss, _ = a3c_losses(logits, values, torch.tensor([0, 1]), torch.tensor([5.0, 5.0]), PAPER)
    value_loss.backward()
    assert values.grad.tolist() == [-1.5, -1.5]  # of each step, not of their mean
    assert logits.grad is None


def test_policy_gradient_and_entropy_oracles():
    """d/dlogits of -log pi(a) (R - V) is (pi - onehot(a)) (R - V), summed over steps; no gradient reaches V through it."""
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    values = torch.tensor([1.0, -1.0], requires_grad=True)
    policy_loss, _, _ = a3c_losses(logits, values, torch.tensor([0, 2]), torch.tensor([3.0, -2.0]), PAPER)
    policy_loss.backward()
    e = np.exp([1.0, 2.0, -1.0])
    expected = [((e / e.sum()) - [1, 0, 0]) * 2.0, (np.full(3, 1 / 3) - [0, 0, 1]) * -1.0]
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-5)
    assert values.grad is None
    uniform = a3c_losses(torch.zeros(1, 4), torch.zeros(1), torch.tensor([0]), torch.zeros(1), PAPER)[2]
    assert float(uniform) == pytest.approx(1.3863, abs=1e-4)


def test_one_step_targets():
    rewards, values = torch.tensor([1.0, 0.0]), torch.tensor([5.0, 7.0])
    assert one_step_targets(rewards, values, False, 0.5).tolist() == [1 + 2.5, 3.5]
    assert one_step_targets(rewards, values, True, 0.5).tolist() == [1 + 2.5, 0]


def constant(values: list[list[float]]):
    """A network whose outputs are these, of as many states as it is given, and the leaf that gets their gradient."""
    leaf = torch.tensor(values, requires_grad=True)
    return leaf, lambda states: (leaf[: len(states)], None, None)


@pytest.mark.parametrize(
    ("method", "alive", "ended"),
    [
        ("one_step_q", [1 + 0.5 * 5, 0.5 * 7], [1 + 0.5 * 5, 0]),
        ("one_step_sarsa", [1 + 0.5 * 5, 0.5 * 3], [1 + 0.5 * 5, 0]),
        ("n_step_q", [1 + 0.5 * 3.5, 0.5 * 7], [1, 0]),
    ],
)
def test_targets_and_gradients_of_the_value_based_methods(method, alive, ended):
    """Q(s', .; theta-) is (2, 5), then (7, 3); the second action is taken in both. The gradient is Q - target."""
    config = dataclasses.replace(PAPER, algorithm=method, discount=0.5)
    for terminal, targets in ((False, alive), (True, ended)):
        q, network = constant([[10.0, 20.0], [30.0, 40.0]])
        after = [[2.0, 5.0], [7.0, 3.0]]
        target = constant(after if method != "n_step_q" else after[1:])[1]
        rollout = Rollout(
            torch.zeros(3, 1, 4), torch.tensor([1, 1]), torch.tensor([1.0, 0.0]), terminal, None, None,
            None if terminal else 1,
        )  # fmt: skip
        loss, parts = METHODS[method].loss(network, target, rollout, config)
        loss.backward()
        errors = np.array([20.0, 40.0]) - targets
        assert loss.item() == pytest.approx((errors**2).sum() / 2)
        assert parts.tolist() == [0, 0, loss.item()]
        np.testing.assert_allclose(q.grad, np.array([[0, e] for e in errors]), rtol=1e-6)


def test_rmsprop_first_step_and_clip():
    """From zero with gradient 1: 3.0151 learning rates. A gradient of norm 80 counts as its half."""
    weights = torch.zeros(2)
    optimiser = SharedRMSProp(weights, PAPER)
    optimiser.step(torch.tensor([1.0, 0.0]), 0.01)
    assert weights.tolist() == pytest.approx([-0.030151, 0], abs=1e-6)
    assert weights[0].item() == pytest.approx(-0.01 / math.sqrt(0.11), rel=1e-6)
    optimiser = SharedRMSProp(torch.zeros(2), PAPER)
    optimiser.step(torch.tensor([48.0, 64.0]), 0.01)
    assert optimiser.mean_square.tolist() == pytest.approx([0.01 * 24**2, 0.01 * 32**2])


def test_parameter_counts_and_shapes():
    network = make_network(PAPER, spaces(4, (84, 84)))
    assert sum(p.numel() for p in network.parameters()) == 677_429
    recurrent = Network(dataclasses.replace(PAPER, lstm=True), 4, (84, 84))
    assert sum(p.numel() for p in recurrent.lstm.parameters()) == 526_336
    assert sum(p.numel() for p in recurrent.parameters()) == 677_429 + 526_336
    larger = Network(dataclasses.replace(PAPER, network="mnih2015", lstm=True), 4, (84, 84))
    assert sum(p.numel() for p in larger.torso.parameters()) == 8224 + 32_832 + 36_928 + 3137 * 512
    assert larger.lstm.weight_ih_l0.shape == (1024, 512)
    q = Network(dataclasses.replace(PAPER, algorithm="n_step_q"), 4, (84, 84))
    assert sum(p.numel() for p in q.parameters()) == 677_429 - 257
    x = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    y, sizes = x.float() / 255, []
    for layer in on_numbers(network.torso):
        y = layer(y)
        sizes.append(tuple(y.shape[1:]))
    assert sizes[0] == (16, 20, 20)
    assert sizes[2] == (32, 9, 9)
    assert sizes[4:] == [(2592,), (256,), (256,)]
    logits, values, _ = network(x)
    assert torch.allclose(logits, network.policy(y), atol=1e-5)
    assert torch.allclose(values, network.value(y)[:, 0], atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"network": "mnih2015", "lstm": True}, {"algorithm": "n_step_q"}])
def test_the_faster_layers_give_the_same_numbers(changes):
    config = dataclasses.replace(PAPER, **changes)
    torch.manual_seed(0)
    fast, plain = make_network(config, spaces(6, (84, 84))), Network(config, 6, (84, 84))
    plain.load_state_dict(fast.state_dict())
    states = torch.randint(0, 256, (9, 4, 84, 84), dtype=torch.uint8)
    hidden = None if fast.lstm is None else torch.randn(2, 1, 256)
    for one, other in zip(
        fast(states, hidden, sequence=True), plain(states, hidden, sequence=True), strict=True
    ):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_initial_weights_are_uniform_within_one_over_root_fan_in():
    torch.manual_seed(0)
    network = Network(dataclasses.replace(PAPER, lstm=True), 6, (84, 84))
    fan_in = {"torso.0": 256, "torso.2": 256, "torso.5": 2592, "lstm": 256, "policy": 256, "value": 256}
    for name, tensor in network.named_parameters():
        bound = 1 / math.sqrt(next(n for key, n in fan_in.items() if name.startswith(key)))
        assert tensor.abs().max() <= bound
        if tensor.numel() > 1000:
            assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_schedules():
    assert learning_rate(0, PAPER) == 0.0007
    assert learning_rate(20_000_000, PAPER) == pytest.approx(0.000525)
    assert learning_rate(80_000_000, PAPER) == learning_rate(80_000_040, PAPER) == 0.0
    assert exploration(0, 0.01, PAPER) == 1.0
    assert exploration(500_000, 0.5, PAPER) == pytest.approx(0.75)
    assert exploration(3_000_000, 0.1, PAPER) == pytest.approx(0.1)


def test_final_exploration_is_drawn_as_the_paper_says_and_again_at_each_game():
    config = dataclasses.replace(CARTPOLE, algorithm="one_step_q")
    _, worker = learner(config)
    drawn, games = [worker.final_exploration], 0
    while games < 250:
        ended = bool(worker.work())
        games += ended
        if ended:
            drawn.append(worker.final_exploration)
        else:  # within a game it stays
            assert worker.final_exploration == drawn[-1]
    for value, likely in FINAL_EXPLORATION:
        assert drawn.count(value) / 251 == pytest.approx(likely, abs=0.1)


def test_a_machine_with_fewer_cores_has_fewer_workers(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(3)))
    assert fit_to_machine(PAPER) == {"workers": 3}
    assert fit_to_machine(dataclasses.replace(PAPER, workers=2)) == {"workers": 2}


# --- the update of one worker, against the same written out in NumPy or in float64 ---


def recorded(worker: ActorLearner) -> list[dict]:
    """Lets the worker note what each of its rollouts was about."""
    notes, method = [], worker.method

    def noting(network, target, r, config):
        notes.append(
            {
                "states": r.states.double().numpy().copy(), "actions": r.actions.numpy(),
                "rewards": r.rewards.double().numpy(), "terminal": r.terminal, "next_action": r.next_action,
                "hidden": None if r.hidden is None else r.hidden.clone(),
            }
        )  # fmt: skip
        return method.loss(network, target, r, config)

    worker.method = method._replace(loss=noting)
    return notes


def test_update_against_float64_numpy():
    """Forty rollouts: returns, softmax, entropy, both heads, the sum over steps, RMSProp, and the falling learning rate."""
    config = dataclasses.replace(CARTPOLE, entropy_weight=0.3, max_gradient_norm=3.0, training_steps=400)
    shared, worker = learner(config)
    notes = recorded(worker)
    net = shared.network
    names = [name for name, _ in net.named_parameters()]
    w = {name: p.detach().double().numpy().copy() for name, p in net.named_parameters()}
    s = {name: np.zeros_like(a) for name, a in w.items()}
    step, clipped, ended, scores = 0, 0, 0, 0.0
    for _ in range(40):
        worker.work()
        note = notes[-1]
        n, x = len(note["actions"]), note["states"][:, 0]
        pre = x @ w["torso.1.weight"].T + w["torso.1.bias"]
        h = np.maximum(pre, 0)
        logits, v = (
            h @ w["policy.weight"].T + w["policy.bias"],
            (h @ w["value.weight"].T + w["value.bias"])[:, 0],
        )
        ret, future = np.zeros(n), 0.0 if note["terminal"] else v[n]
        for i in reversed(range(n)):
            ret[i] = future = note["rewards"][i] + 0.99 * future
        h, pre, x, logits, v = h[:n], pre[:n], x[:n], logits[:n], v[:n]
        pi = np.exp(logits - logits.max(1, keepdims=True))
        pi /= pi.sum(1, keepdims=True)
        entropy = -(pi * np.log(pi)).sum(1, keepdims=True)
        onehot = np.eye(2)[note["actions"]]
        d_logits = (pi - onehot) * (ret - v)[:, None] + 0.3 * pi * (np.log(pi) + entropy)
        d_v = 0.5 * (v - ret)[:, None]
        d_h = (d_logits @ w["policy.weight"] + d_v @ w["value.weight"]) * (pre > 0)
        d = {
            "torso.1.weight": d_h.T @ x, "torso.1.bias": d_h.sum(0), "policy.weight": d_logits.T @ h,
            "policy.bias": d_logits.sum(0), "value.weight": d_v.T @ h, "value.bias": d_v.sum(0),
        }  # fmt: skip
        norm = math.sqrt(sum((g**2).sum() for g in d.values()))
        clipped, ended = clipped + (norm > 3), ended + note["terminal"]
        for name in names:
            g = d[name] * min(1, 3 / norm)
            s[name] = 0.99 * s[name] + 0.01 * g**2
            w[name] -= 0.0007 * max(1 - step / 400, 0) * g / np.sqrt(s[name] + 0.1)
        step += n
        scores += ret.sum()
        assert shared.agent_steps() == step
    assert ended >= 2
    assert 5 < clipped < 40
    for name, p in net.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), w[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert shared.counts.tolist() == [[step, 40]]


@pytest.mark.parametrize("method", VALUE_BASED)
def test_value_based_updates_against_float64(method):
    """Thirty rollouts with a target network that is copied every eight steps, epsilon half-way down."""
    config = dataclasses.replace(CARTPOLE, algorithm=method, final_exploration_step=200)
    shared, worker = learner(config)
    notes = recorded(worker)
    net, target = (Network(config, 2, (4,)).double() for _ in range(2))
    net.load_state_dict(shared.network.state_dict())
    target.load_state_dict(net.state_dict())
    s, step, copies, ended = [torch.zeros_like(p) for p in net.parameters()], 0, 0, 0
    for _ in range(30):
        worker.work()
        note = notes[-1]
        n, x, a = len(note["actions"]), torch.from_numpy(note["states"]), note["actions"]
        following = target(x)[0].detach().numpy()
        y = np.zeros(n)
        future = 0.0 if note["terminal"] else following[n].max()
        for i in reversed(range(n)):
            if method == "n_step_q":
                y[i] = future = note["rewards"][i] + 0.99 * future
            elif note["terminal"] and i == n - 1:
                y[i] = note["rewards"][i]
            elif method == "one_step_q":
                y[i] = note["rewards"][i] + 0.99 * following[i + 1].max()
            else:
                y[i] = (
                    note["rewards"][i]
                    + 0.99 * following[i + 1][note["next_action"] if i == n - 1 else a[i + 1]]
                )
        net.zero_grad()
        q = net(x[:n])[0][torch.arange(n), torch.from_numpy(a)]
        (0.5 * (torch.from_numpy(y) - q) ** 2).sum().backward()
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in net.parameters()))
        with torch.no_grad():
            for p, m in zip(net.parameters(), s, strict=True):
                g = p.grad * min(1, 40 / norm)
                m.mul_(0.99).add_(0.01 * g**2)
                p -= 0.0007 * (1 - step / 100_000) * g / (m + 0.1).sqrt()
        step, ended = step + n, ended + note["terminal"]
        if step // 8 > copies:
            copies = step // 8
            target.load_state_dict(net.state_dict())
        if len(notes) > 1 and method == "one_step_sarsa" and not notes[-2]["terminal"]:
            assert a[0] == notes[-2]["next_action"]  # what the target was computed with is what is done
    assert ended >= 1
    assert copies == int(shared.target_copies) == step // 8
    for fast, slow in zip(shared.network.parameters(), net.parameters(), strict=True):
        np.testing.assert_allclose(fast.detach().numpy(), slow.detach().numpy(), rtol=2e-4, atol=2e-6)
    for fast, slow in zip(shared.target.parameters(), target.parameters(), strict=True):
        np.testing.assert_allclose(fast.detach().numpy(), slow.detach().numpy(), rtol=2e-4, atol=2e-6)


def test_update_of_the_convolutional_network_against_float64_autograd():
    """A worker on Breakout: bytes in, channels last, batched backward, against a plain float64 module, step by step."""
    task = find_task(load_paper("a3c"), None, "breakout")[1]
    config = dataclasses.replace(PAPER, workers=1, learning_rate=0.7)  # steps well above rounding
    shared, worker = learner(config, task, actions=4, shape=(84, 84))
    notes = recorded(worker)
    slow = Network(config, 4, (84, 84)).double()
    slow.load_state_dict(shared.network.state_dict())
    slow.torso, slow.scale = on_numbers(slow.torso), 1  # its own division by 255 stands below
    worker.work()
    note = notes[0]
    x = torch.from_numpy(note["states"]) / 255
    assert x[:, :3].amax() > 0  # a stack of different frames in the right order: the newest one is last
    assert torch.equal(x[1, 2], x[0, 3])
    logits, values, _ = slow(x)
    future, loss = values[5].item(), 0
    for i in reversed(range(5)):
        future = note["rewards"][i] + 0.99 * future
        log_pi = logits[i].log_softmax(0)
        loss = (
            loss - log_pi[note["actions"][i]] * (future - values[i].item()) + 0.25 * (future - values[i]) ** 2
        )
        loss = loss + 0.01 * (log_pi.exp() * log_pi).sum()
    loss.backward()
    for fast, plain in zip(shared.network.parameters(), slow.parameters(), strict=True):
        step = 0.7 * plain.grad / torch.sqrt(0.01 * plain.grad**2 + 0.1)
        moved = plain.detach() - fast.detach().double()
        torch.testing.assert_close(moved, step, rtol=1e-3, atol=1e-4 * float(step.abs().max()))


# --- the LSTM ---


def test_lstm_state_is_carried_detached_and_zeroed_and_the_bootstrap_does_not_advance_it():
    config = dataclasses.replace(CARTPOLE, lstm=True)
    shared, worker = learner(config)
    notes = recorded(worker)
    assert torch.equal(worker.hidden, torch.zeros(2, 1, 256))
    ended, carried = 0, torch.zeros(2, 1, 256)
    for _ in range(30):
        old = Network(config, 2, (4,))
        old.load_state_dict(shared.network.state_dict())
        ended_here = bool(worker.work())
        note = notes[-1]
        assert torch.equal(note["hidden"], carried)  # of the step before the rollout
        assert not worker.hidden.requires_grad
        n = len(note["actions"])
        with torch.no_grad():
            after = old(torch.from_numpy(note["states"][:n]).float(), note["hidden"], sequence=True)[2]
        if ended_here:
            ended += 1
            assert not worker.hidden.any()
        else:  # n steps, not n + 1: the bootstrap value has not moved it
            assert n == 5
            torch.testing.assert_close(worker.hidden, after, rtol=1e-4, atol=1e-6)
            assert worker.hidden.any()
        carried = worker.hidden.clone()
    assert ended >= 1


def test_lstm_update_against_float64_autograd():
    """Back through the five steps of a rollout and no further; the state before them is a constant."""
    config = dataclasses.replace(CARTPOLE, lstm=True)
    shared, worker = learner(config)
    notes = recorded(worker)
    worker.work()
    slow = Network(config, 2, (4,)).double()
    slow.load_state_dict(shared.network.state_dict())
    s = shared.optimiser.mean_square.clone()
    before = shared.weights.clone()
    worker.work()
    note = notes[1]
    assert not note["terminal"]
    x, hidden, outputs = torch.from_numpy(note["states"]), note["hidden"].double(), []
    for i in range(6):  # one step at a time
        logits, value, hidden = slow(x[i : i + 1], hidden)
        outputs.append((logits[0], value[0]))
    future, loss = outputs[5][1].item(), 0
    for i in reversed(range(5)):
        future = note["rewards"][i] + 0.99 * future
        logits, value = outputs[i]
        log_pi = logits.log_softmax(0)
        loss = loss - log_pi[note["actions"][i]] * (future - value.item()) + 0.25 * (future - value) ** 2
        loss = loss + 0.01 * (log_pi.exp() * log_pi).sum()
    loss.backward()
    d = torch.cat([p.grad.flatten() for p in slow.parameters()])
    rate = 0.0007 * (1 - 5 / 100_000)
    expected = before.double() - rate * d / (0.99 * s + 0.01 * d**2 + 0.1).sqrt()
    torch.testing.assert_close(shared.weights.double(), expected, rtol=1e-4, atol=1e-7)


# --- the game, and the policy ---


def test_episode_scores_are_raw_whole_games():
    """Breakout, rewards clipped and lives ending episodes for learning: what is reported is neither."""
    task = find_task(load_paper("a3c"), None, "breakout")[1]
    config = dataclasses.replace(PAPER, workers=1, noop_max=3)
    _, worker = learner(config, task, actions=4, shape=(84, 84), seed=8)
    notes = recorded(worker)
    steps, recv = [], worker.envs.recv

    def noting():
        step = recv()
        step.rewards[:] *= 3  # as the bricks of the upper rows
        step.scores[:] = 3 * step.scores
        steps.append(step)
        return step

    worker.envs.recv = noting
    news = []
    while not news:
        news = worker.work()
    (t, score, length) = news[0]
    assert t == length == len(steps)
    assert score == 3 * worker_score(steps) > 0
    lives_lost = sum(int(step.life_lost[0]) for step in steps)
    assert lives_lost == 5 == sum(note["terminal"] for note in notes)
    assert sum(note["rewards"].sum() for note in notes) == worker_score(steps)  # clipped to 1 each
    assert worker.stack.planes[0, :3].max() == 0  # the next game has begun


def worker_score(steps) -> float:
    return sum(float(step.rewards[0]) for step in steps) / 3


def test_a_time_cap_is_bootstrapped_and_a_fall_is_not():
    """CartPole cut at 500 steps: `done` without `terminal`."""
    shared, worker = learner(CARTPOLE)
    worker.envs.max_steps = 7
    notes = recorded(worker)
    with torch.no_grad():
        shared.network.value.bias.fill_(1000.0)
    assert worker.work() == []
    news = worker.work()
    assert [n[2] for n in news] == [7]
    assert len(notes[1]["actions"]) == 2
    assert notes[1]["terminal"] is False
    cut = Rollout(
        torch.zeros(3, 1, 4), torch.tensor([0, 0]), torch.tensor([1.0, 1.0]), False, None, None, None
    )
    loss = METHODS["a3c"].loss(shared.network, None, cut, CARTPOLE)[1][2]
    assert loss.item() < 0.25 * 2 * 40**2  # R = 1 + .99 * 1000 is near V
    again = METHODS["a3c"].loss(shared.network, None, cut._replace(terminal=True), CARTPOLE)[1][2]
    assert again.item() > 0.25 * 2 * 900**2


def test_workers_differ_and_a_seed_repeats():
    def first(seed, index):
        _, worker = learner(seed=seed, index=index, config=dataclasses.replace(CARTPOLE, workers=2))
        return worker.stack.planes.tobytes(), worker.rng.random()

    assert first(1, 0) == first(1, 0)
    starts, draws = zip(first(1, 0), first(1, 1), first(2, 0), first(2, 1), strict=True)
    assert (len(set(starts)), len(set(draws))) == (4, 4)


def test_the_policy_is_sampled_and_value_based_methods_are_greedy():
    class Fixed(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.weight, self.value = nn.Parameter(torch.zeros(1)), value

        def forward(self, states, hidden):
            return torch.log(torch.tensor([[0.2, 0.7, 0.1]])).repeat(len(states), 1) + 5, None, hidden

    rngs = [np.random.default_rng(i) for i in range(3000)]
    actions = make_policy(Fixed(value=True), PAPER)(np.zeros((3000, 4)), rngs)
    assert np.bincount(actions, minlength=3) / 3000 == pytest.approx([0.2, 0.7, 0.1], abs=0.03)
    again = sample(torch.log(torch.tensor([[0.2, 0.7, 0.1]])), [np.random.default_rng(0)])
    assert actions[0] == again[0]  # a function of the episode's own generator
    greedy = make_policy(Fixed(value=None), dataclasses.replace(PAPER, algorithm="n_step_q"))
    assert (greedy(np.zeros((5, 4)), rngs[:5]) == 1).all()


def test_the_actors_lstm_state_begins_with_each_episode():
    torch.manual_seed(0)
    config = dataclasses.replace(CARTPOLE, lstm=True)
    actor = make_policy(Network(config, 2, (4,)), config)
    states, rngs = np.ones((3, 1, 4), np.float32), [np.random.default_rng(i) for i in range(3)]
    actor.start(np.ones(3, bool))
    actor(states, rngs)
    once = actor.hidden.clone()
    actor.start(np.array([False, True, False]))
    assert not actor.hidden[:, 1].any()
    actor(states, rngs)
    torch.testing.assert_close(actor.hidden[:, 1], once[:, 1])
    assert not torch.allclose(actor.hidden[:, 0], once[:, 0])
    actor.start(np.ones(10, bool))
    assert actor.hidden.shape == (2, 10, 256)


def test_an_evaluation_tells_the_actor_where_episodes_begin():
    """In groups and in phases: at the first step of every environment, and again wherever an episode has ended."""

    class Noting:
        def __init__(self):
            self.begun, self.steps = [], 0

        def start(self, begins):
            self.begun.append((self.steps, begins.tolist()))

        def __call__(self, states, rngs):
            self.steps += 1
            return np.zeros(len(states), dtype=np.int64)

    seeds = np.array([1, 2, 3])
    group = Noting()
    episodes = play_group(group, GymEnvs("CartPole-v1", 3, 0), 1, seeds, 0.0)
    assert group.begun[0] == (0, [True, True, True])
    firsts = {i: next(step for step, begins in group.begun[1:] if begins[i]) for i in range(3)}
    assert firsts == {i: episode.length for i, episode in enumerate(episodes)}
    phase = Noting()
    scores = play_steps(phase, GymEnvs("CartPole-v1", 1, 0), 1, 60, 0.0, np.random.default_rng(0))
    assert [step for step, _ in phase.begun] == [0, *np.cumsum(scores).astype(int)]
    assert len(scores) >= 4


def test_variants_are_what_the_paper_calls_them():
    paper = load_paper("a3c")
    found = {name: resolve(paper, name or None, "pong", "paper").settings for name in paper.variants}
    assert {name: (s["algorithm"], s["lstm"]) for name, s in found.items()} == {
        "": ("a3c", False),
        "lstm": ("a3c", True),
        "nature_network": ("a3c", False),
        "nature_network_lstm": ("a3c", True),
        "n_step_q": ("n_step_q", False),
        "one_step_q": ("one_step_q", False),
        "one_step_sarsa": ("one_step_sarsa", False),
    }
    assert {name for name, s in found.items() if s["network"] == "mnih2015"} == {
        "nature_network",
        "nature_network_lstm",
    }
    assert all(s["training_steps"] * 4 == 320_000_000 and s["workers"] == 16 for s in found.values())
    assert paper.tasks["pong"].published.value == 7
    assert (found[""]["target_period"] * 4, found[""]["final_exploration_step"] * 4) == (40_000, 4_000_000)


def test_the_protocol_says_this_runs_phases_and_whose_the_published_number_is():
    paper = load_paper("a3c")
    at_hour, at_paper = (resolve(paper, None, "pong", size).protocol for size in ("hour", "paper"))
    assert "every 400,000 frames the current network plays for 40,000 frames" in at_hour.description
    assert "every 1,000,000 frames the current network plays for 500,000 frames" in at_paper.description
    assert (at_paper.published_episodes, at_paper.published_over) == (3, "seeds")
    assert at_paper.published_by == "Fortunato et al. 2018, column A3C"
