"""A short real training of PPO on scripted environments: everything that each update was given is computed again in float64 NumPy."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from replications.ppo import train as ppo
from tests.scripted import ScriptedEnvs
from tests.training import train

ACTORS, STEPS, EPOCHS, SIZE = 3, 20, 2, 15
SHORT = {
    "network": "mlp", "stack": 2, "training_steps": 4 * ACTORS * STEPS, "num_envs": ACTORS, "rollout_steps": STEPS,
    "epochs": EPOCHS, "minibatch_size": SIZE, "discount": 0.9, "gae_lambda": 0.7, "log_period": 1, "reward_clip": 1.0,
    "learning_rate": 0.01, "clip": 0.2, "anneal_learning_rate": False, "anneal_clip": False, "entropy_coefficient": 0.01,
    "life_loss_terminal": True, "normalise_advantages": "no", "observation_filter": "none", "objective": "clip",
}  # fmt: skip


def numbers(net) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy().copy() for name, tensor in net.state_dict().items()}


class Watched:
    """A training, and what its pieces were given."""

    def __init__(self, tmp_path: Path, monkeypatch, envs: ScriptedEnvs, task: str, settings: dict):
        self.envs, self.updates, self.kls, self.rates_used = envs, [], [], []
        monkeypatch.setattr(ppo, "make_envs", lambda *a, **k: envs)
        update, change = ppo.update, ppo.penalty_change

        def spied_update(net, optimiser, batch, old_log_std, rates, config):
            before, std = numbers(net), None if old_log_std is None else old_log_std.double().numpy().copy()
            given = {name: tensor.double().numpy() for name, tensor in batch._asdict().items()}
            parts = update(net, optimiser, batch, old_log_std, rates, config)
            lr = float(optimiser.param_groups[0]["lr"])
            self.updates.append({"net": before, "batch": given, "log_std": std, "rates": rates, "lr": lr})
            self.after = numbers(net)
            return parts

        def spied_change(kl, target):
            self.kls.append(kl)
            return change(kl, target)

        monkeypatch.setattr(ppo, "update", spied_update)
        monkeypatch.setattr(ppo, "penalty_change", spied_change)
        self.settings = SHORT | settings
        folder = train("ppo", task, tmp_path, self.settings)
        self.curve = list(csv.DictReader((folder / "curve.csv").open()))
        self.iterations = [
            self.updates[i : i + EPOCHS * ACTORS * STEPS // SIZE]
            for i in range(0, len(self.updates), EPOCHS * ACTORS * STEPS // SIZE)
        ]
        assert len(self.iterations) == 4


def layers(net: dict, which: int, x: np.ndarray) -> np.ndarray:
    for k in (0, 1):
        x = np.tanh(x @ net[f"hidden.{k}.weight"][which] + net[f"hidden.{k}.bias"][which])
    head = "policy" if which == 0 else "value"
    return x @ net[f"{head}.weight"].T + net[f"{head}.bias"]


def log_probs(outputs, log_std, actions):
    if log_std is None:
        logs = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
        return logs[np.arange(len(actions)), actions.astype(int)]
    z = (actions - outputs) / np.exp(log_std)
    return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)


def kl(old, old_std, new, new_std):
    if old_std is None:
        p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (old, new))
        return (p * np.log(p / q)).sum(1).mean()
    s, t = np.exp(old_std), np.exp(new_std)
    return (np.log(t / s) + (s**2 + (old - new) ** 2) / (2 * t**2) - 0.5).sum(1).mean()


def advantages_of(rewards, values, ends, discount, lam):
    """The double sum of Equation 11, an environment at a time."""
    out = np.zeros_like(rewards)
    for n in range(rewards.shape[1]):
        for t in range(len(rewards)):
            weight = 1.0
            for k in range(t, len(rewards)):
                follows = 0.0 if ends[k, n] else values[k + 1, n]
                out[t, n] += weight * (rewards[k, n] + discount * follows - values[k, n])
                if ends[k, n]:
                    break
                weight *= discount * lam
    return out


class Filter:
    """All observations so far, and the moments that they have: of `prior` more of mean 0 and variance 1."""

    def __init__(self, prior: float, floor: float, bound: float, inputs: int):
        self.prior, self.floor, self.bound, self.all = prior, floor, bound, np.zeros((0, inputs))

    def see(self, x):
        self.all = np.concatenate([self.all, x])

    def __call__(self, x):
        n = len(self.all) + self.prior
        mean = self.all.sum(0) / n
        variance = ((self.all**2).sum(0) + self.prior) / n - mean**2
        return ((x - mean) / np.sqrt(np.maximum(variance, self.floor))).clip(-self.bound, self.bound)


def check(watched: Watched) -> None:
    w, s, envs = watched, watched.settings, watched.envs
    seen = envs.stacked().astype(np.float64).reshape(-1, ACTORS, 6)
    rewards = envs.column("rewards")
    done, lost = envs.column("done"), envs.column("life_lost")
    ends = done | (lost & s["life_loss_terminal"])
    assert (lost & ~done).any(), "no life was lost"
    assert envs.column("game_over").any(), "no game ended"
    assert envs.column("truncated").any(), "no game was cut"
    acted = np.stack(envs.acted)
    if s["reward_clip"]:
        assert (np.abs(rewards) > s["reward_clip"]).any()
        rewards = rewards.clip(-s["reward_clip"], s["reward_clip"])
    if s.get("normalise_rewards"):
        totals, returns, scaled = np.zeros(ACTORS), [], rewards.copy()
        for t in range(len(rewards)):
            totals = s["discount"] * totals + rewards[t]
            returns.extend(totals)
            n = len(returns) + 1e-4
            variance = (np.sum(np.square(returns)) + 1e-4) / n - (np.sum(returns) / n) ** 2
            scaled[t] = (rewards[t] / math.sqrt(variance)).clip(-10, 10)
            totals = np.where(done[t], 0, totals)
        rewards = scaled
    how = s["observation_filter"]
    bound = s.get("observation_clip", 5.0)
    inputs = seen.shape[2]
    filtered = {
        "none": lambda x: x, "iteration": Filter(0.01, 0.01, bound, inputs), "step": Filter(1e-4, 1e-8, bound, inputs),
    }[how]  # fmt: skip
    beta = s.get("kl_coefficient", 1.0)
    for k, updates in enumerate(w.iterations):
        rows = slice(k * STEPS, (k + 1) * STEPS)
        planes, net, log_std = (
            seen[rows.start : rows.stop + 1],
            updates[0]["net"],
            updates[0]["net"].get("log_std"),
        )
        states = np.zeros_like(planes)
        for t, row in enumerate(planes):
            if how == "step" and t < STEPS:
                filtered.see(row)
            states[t] = filtered(row)
        values = layers(net, 1, states.reshape(-1, inputs)).reshape(STEPS + 1, ACTORS)
        advantages = advantages_of(rewards[rows], values, ends[rows], s["discount"], s["gae_lambda"])
        targets = advantages + values[:-1]
        if s["normalise_advantages"] == "batch":
            advantages = (advantages - advantages.mean()) / advantages.std()
        states = states[:-1].reshape(-1, inputs)
        if how == "iteration":
            flat = planes[:-1].reshape(-1, inputs)
            filtered.see(flat)
            states = filtered(flat)
        actions = acted[rows].reshape(ACTORS * STEPS, *acted.shape[2:]).astype(np.float64)
        outputs = layers(net, 0, states)
        expected = {
            "states": states, "actions": actions, "advantages": advantages.reshape(-1), "returns": targets.reshape(-1),
            "log_probs": log_probs(outputs, log_std, actions), "values": values[:-1].reshape(-1), "outputs": outputs,
        }  # fmt: skip
        per_epoch = ACTORS * STEPS // SIZE
        orders = []
        for e in range(EPOCHS):
            epoch = updates[e * per_epoch : (e + 1) * per_epoch]
            given = {name: np.concatenate([u["batch"][name] for u in epoch]) for name in expected}
            distance = ((given["states"][:, None] - states[None]) ** 2).sum(2)
            order = distance.argmin(1)
            assert sorted(order) == list(range(ACTORS * STEPS)), (
                "an epoch does not take every agent step once"
            )
            orders.append(order.tolist())
            for name, what in expected.items():
                np.testing.assert_allclose(
                    given[name], what[order], rtol=2e-4, atol=2e-4, err_msg=f"{name}, iteration {k}"
                )
        assert orders[0] != orders[1]
        alpha = 1 - k / 4
        learning_rate = s["learning_rate"] * (alpha if s["anneal_learning_rate"] else 1)
        clip = s["clip"] * (alpha if s["anneal_clip"] else 1)
        for u in updates:
            assert tuple(u["rates"]) == pytest.approx((learning_rate, clip, beta))
            assert u["lr"] == pytest.approx(learning_rate)
            if log_std is not None:
                np.testing.assert_array_equal(u["log_std"], log_std.astype(np.float32))
        assert float(w.curve[k]["learning_rate"]) == pytest.approx(learning_rate)
        if s["objective"] == "adaptive_kl":
            after = w.iterations[k + 1][0]["net"] if k < 3 else w.after
            moved = kl(outputs, log_std, layers(after, 0, states), after.get("log_std"))
            back = kl(layers(after, 0, states), after.get("log_std"), outputs, log_std)
            assert abs(moved / back - 1) > 0.01, "the two directions cannot be told apart here"
            assert w.kls[k] == pytest.approx(moved, rel=2e-3)
            target = s["kl_target"]
            beta *= 0.5 if moved < target / 1.5 else 2 if moved > target * 1.5 else 1


ANNEALED = {"anneal_learning_rate": True, "anneal_clip": True}
CASES = {
    "text": {},
    "atari": ANNEALED | {"normalise_advantages": "batch"},
    "rate_alone": {"anneal_learning_rate": True},
    "clip_alone": {"anneal_clip": True},
    "lives_go_on": {"life_loss_terminal": False, "reward_clip": 0.0},
    "adaptive": {"objective": "adaptive_kl", "kl_target": 0.01, "learning_rate": 0.03},
}


@pytest.mark.parametrize("case", CASES)
def test_numbered_actions(case, tmp_path, monkeypatch):
    check(Watched(tmp_path, monkeypatch, ScriptedEnvs(ACTORS, 4), "cartpole", CASES[case]))


CONTROL = {
    "mujoco": {"observation_filter": "iteration", "normalise_advantages": "batch", "reward_clip": 0.0, "entropy_coefficient": 0.0},
    "ppo2": ANNEALED | {
        "observation_filter": "step", "observation_clip": 10.0, "normalise_rewards": True, "reward_clip": 0.0,
        "normalise_advantages": "minibatch", "value_clip": True, "gradient_norm_clip": 0.5, "initial_weights": "orthogonal",
    },
    "adaptive": {
        "observation_filter": "iteration", "objective": "adaptive_kl", "kl_target": 0.01, "learning_rate": 0.03,
        "reward_clip": 0.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CONTROL)
def test_vectors_of_floats(case, tmp_path, monkeypatch):
    watched = Watched(
        tmp_path, monkeypatch, ScriptedEnvs(ACTORS, 2, continuous=True), "hopper", CONTROL[case]
    )
    assert (np.abs(np.stack(watched.envs.acted)) > 1).any()  # beyond the bounds of most tasks
    check(watched)
