from __future__ import annotations

import numpy as np

from common.envs import GymEnvs


def test_cartpole_cap_truncates_and_failure_ends():
    envs = GymEnvs("CartPole-v1", 2, seed=0)
    envs.reset()
    assert envs.max_steps == 500
    step, steps = envs.step(np.array([1, 1])), 1
    while not step.game_over.any():  # pushing one way falls within a few steps
        step, steps = envs.step(np.array([1, 1])), steps + 1
    assert 5 < steps < 15
    assert not step.truncated.any()
    assert step.scores[step.game_over].tolist() == [float(steps)] * int(step.game_over.sum())
    envs.restart(np.ones(2, dtype=bool))
    envs.max_steps = 4
    ends = [envs.step(np.array([0, 1])) for _ in range(4)]
    assert [bool(s.truncated.all()) for s in ends] == [False, False, False, True]
    assert not ends[-1].game_over.any()


def test_same_seed_same_episodes_and_other_seed_others():
    def first(seed: int) -> np.ndarray:
        return GymEnvs("CartPole-v1", 2, seed=seed).reset()

    assert (first(4) == first(4)).all()
    assert (first(4) != first(5)).any()
    assert (first(4)[0] != first(4)[1]).any()


def test_restored_cartpole_continues_identically():
    rng = np.random.default_rng(0)
    one = GymEnvs("CartPole-v1", 3, seed=2)
    one.reset()
    for _ in range(57):
        step = one.step(rng.integers(2, size=3))
        if step.done.any():
            one.restart(step.done)
    two = GymEnvs("CartPole-v1", 3, seed=2)
    two.load_state_dict(one.state_dict())
    for _ in range(60):
        actions = rng.integers(2, size=3)
        a, b = one.step(actions), two.step(actions)
        assert (a.obs == b.obs).all()
        assert (a.scores == b.scores).all()
        if a.done.any():
            assert (one.restart(a.done) == two.restart(b.done)).all()
