"""A short real training of DDPG on scripted environments: what each update was given, and what it left, computed again in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from replications.ddpg import train as ddpg
from tests.replications.ddpg.twin import Twin, doubles
from tests.scripted import ScriptedEnvs
from tests.training import train

ENVS, ACTIONS, STEPS, START, SIZE = 2, 2, 120, 24, 16
SHORT = {
    "training_steps": STEPS, "num_envs": ENVS, "replay_start": START, "batch_size": SIZE, "replay_capacity": 90,
    "target_rate": 0.05, "evaluation_period": 10_000, "noise_sigma": 0.6,
}  # fmt: skip


def count(net) -> int:
    return sum(p.numel() for p in net.parameters())


def numbers(tensors: list[torch.Tensor]) -> list[np.ndarray]:
    return [tensor.detach().double().numpy().ravel().copy() for tensor in tensors]


class Watched:
    """A training, and what its pieces were given and gave."""

    def __init__(self, tmp_path: Path, monkeypatch, variant: str | None):
        self.envs = ScriptedEnvs(ENVS, ACTIONS, continuous=True)
        self.updates, self.noises, self.policies, self.followed = [], [], [], []
        monkeypatch.setattr(ddpg, "make_envs", lambda *a, **k: self.envs)
        update, noise_after, make, follow = (
            ddpg.update,
            ddpg.noise_after,
            ddpg.deterministic,
            ddpg.soft_update,
        )

        def spied_update(nets, bootstrap, optimisers, batch, config):
            before, old = doubles(nets), doubles(bootstrap)
            rates = {
                who: (o.param_groups[0]["lr"], o.param_groups[0]["weight_decay"])
                for who, o in optimisers.items()
            }
            assert rates == {"actor": (1e-4, 0.0), "critic": (1e-3, 1e-2)}
            assert optimisers["actor"].param_groups[0]["params"][0].numel() == count(nets.actor)
            assert optimisers["critic"].param_groups[0]["params"][0].numel() == count(nets.critic)
            given = {
                n: getattr(batch, n).double().numpy()
                for n in ("states", "actions", "rewards", "next_states", "terminals")
            }
            result = update(nets, bootstrap, optimisers, batch, config)
            self.updates.append(
                {"net": before, "bootstrap": old, "own": bootstrap is nets, "batch": given, "after": doubles(nets), "steps": len(self.envs.steps)}
            )  # fmt: skip
            return result

        def spied_noise(noise, rng, config):
            result = noise_after(noise, rng, config)
            self.noises.append((noise.numpy().copy(), result.numpy().copy()))
            return result

        def spied_policy(actor):
            mu, in_bounds = make(actor)

            def watched(states):
                actions = mu(states)
                self.policies.append((doubles(actor), states.copy(), actions.copy()))
                return actions

            return watched, in_bounds

        def spied_follow(targets, sources, rate):
            before, given = numbers(targets), numbers(sources)
            follow(targets, sources, rate)
            self.followed.append((before, given, numbers(targets), rate))

        monkeypatch.setattr(ddpg, "update", spied_update)
        monkeypatch.setattr(ddpg, "noise_after", spied_noise)
        monkeypatch.setattr(ddpg, "deterministic", spied_policy)
        monkeypatch.setattr(ddpg, "soft_update", spied_follow)
        train("ddpg", "hopper", tmp_path, SHORT, variant=variant)


def acted(net: dict[str, torch.Tensor], states: np.ndarray, batch_norm: bool) -> np.ndarray:
    """mu(s) with running moments, in float64."""
    config = ddpg.Config(batch_norm=batch_norm)
    blank = torch.nn.Module()
    return Twin(blank, blank, config).actor({f"actor.{n}": t for n, t in net.items()}, torch.from_numpy(states).double(), False).numpy()  # fmt: skip


@pytest.mark.parametrize("variant", [None, "no_target_network", "no_batch_norm"])
def test_the_loop(variant, tmp_path, monkeypatch):
    w = Watched(tmp_path, monkeypatch, variant)
    envs, turns = w.envs, STEPS // ENVS
    seen, rewards, done = envs.seen(), envs.column("rewards"), envs.column("done")
    over, cut = envs.column("game_over"), envs.column("truncated")
    assert over.any()
    assert cut.any()
    assert len(envs.steps) == len(w.noises) == turns

    # Acting: mu(s) in evaluation mode of the newest weights, noise that starts anew with each episode, clipped, in the bounds
    for t in range(turns):
        net, states, actions = w.policies[t]
        np.testing.assert_array_equal(states[:, 0], seen[t])
        np.testing.assert_allclose(actions, acted(net, states, variant != "no_batch_norm"), atol=1e-5)
        before, after = w.noises[t]
        expected = (
            np.zeros((ENVS, ACTIONS)) if t == 0 else np.where(done[t - 1][:, None], 0, w.noises[t - 1][1])
        )
        np.testing.assert_array_equal(before, expected)
        clipped = (actions + after).clip(-1, 1)
        np.testing.assert_allclose(envs.acted[t], 1 + 3 * clipped, atol=1e-6)
        if w.updates and t > 0:
            newest = [u["after"] for u in w.updates if u["steps"] <= t]
            if newest:
                same = {n: torch.equal(x, newest[-1][f"actor.{n}"]) for n, x in net.items()}
                assert all(same.values()), same
    executed = np.stack(envs.acted)
    assert (executed == 4).any()  # some met their bounds
    assert (executed == -2).any()

    # Updates: one an agent step from the replay start on, on transitions that were stored by then; ends are real ends
    assert len(w.updates) == STEPS - START + ENVS
    rows = {seen[t, n].tobytes(): (t, n) for t in range(turns) for n in range(ENVS)}
    drawn, terminals = set(), set()
    for number, u in enumerate(w.updates):
        assert u["steps"] == START // ENVS + number // ENVS
        assert u["own"] == (variant == "no_target_network")
        b = u["batch"]
        for k in range(SIZE):
            t, n = rows[b["states"][k, 0].astype(np.float32).tobytes()]
            assert t < u["steps"]
            assert t >= u["steps"] + 1 - 90 // ENVS
            np.testing.assert_allclose(b["actions"][k], (executed[t, n] - 1) / 3, atol=1e-6)
            assert b["rewards"][k] == rewards[t, n]
            np.testing.assert_array_equal(b["next_states"][k, 0].astype(np.float32), envs.steps[t].obs[n])
            assert b["terminals"][k] == over[t, n]
            drawn.add((t, n))
            terminals.add((bool(over[t, n]), bool(cut[t, n])))
    assert len(drawn) > 0.9 * STEPS
    assert terminals >= {(False, False), (True, False), (False, True)}

    # Target networks: the first ones are the networks themselves; then each weight follows by tau
    first = w.updates[0]
    assert all(torch.equal(first["net"][n], first["bootstrap"][n]) for n in first["net"])
    assert len(w.followed) == len(w.updates)
    weights = [n for n in first["net"] if not n.endswith(("running_mean", "running_var", "centre", "reach"))]
    size = sum(first["net"][n].numel() for n in weights)
    for before, sources, after, rate in w.followed:
        assert rate == SHORT["target_rate"]
        assert sum(len(x) for x in after) == size
        np.testing.assert_allclose(
            np.concatenate(after),
            0.05 * np.concatenate(sources) + 0.95 * np.concatenate(before),
            atol=1e-5,
            rtol=1e-5,
        )
    expected = {n: first["bootstrap"][n] for n in weights}
    for u in [] if variant == "no_target_network" else w.updates:
        for name, target in expected.items():
            torch.testing.assert_close(u["bootstrap"][name], target, atol=1e-5, rtol=1e-5)
        expected = {n: 0.05 * u["after"][n] + 0.95 * u["bootstrap"][n] for n in weights}
