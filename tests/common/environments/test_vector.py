from __future__ import annotations

import numpy as np
import pytest

from common.environments.vector import GymEnvs, ReplayableEnvs


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
    envs.reset_where(np.ones(2, dtype=bool))
    envs.max_steps = 4
    ends = [envs.step(np.array([0, 1])) for _ in range(4)]
    assert [bool(s.truncated.all()) for s in ends] == [False, False, False, True]
    assert not ends[-1].game_over.any()


class Counted(ReplayableEnvs):
    """Environments that give the rewards and lost lives of a table, column by column; a start costs nothing."""

    reseed_every = 1

    def __init__(self, rewards, lost, cap: int | None = None):
        super().__init__(len(rewards), 0, cap)
        self.rewards, self.lost, self.t, self.obs_shape = np.array(rewards), np.array(lost, bool), 0, (1,)

    def _reset(self, mask, seeds):
        return np.zeros((self.num_envs, 1))

    def _send(self, actions):
        pass

    def _recv(self):
        self.t += 1
        rewards, lost = self.rewards[:, self.t - 1].astype(float), self.lost[:, self.t - 1]
        return np.zeros((self.num_envs, 1)), rewards, np.zeros(self.num_envs, bool), lost


def cuts(envs: ReplayableEnvs, steps: int) -> list[list[bool]]:
    """(N, steps): which step cut which environment; those that are cut begin anew."""
    seen = []
    for _ in range(steps):
        step = envs.step(np.zeros(envs.num_envs))
        assert not (step.truncated & step.game_over).any()
        seen.append(step.truncated.tolist())
        if step.done.any():
            envs.reset_where(step.done)
    return np.array(seen).T.astype(int).tolist()


def test_a_game_in_which_nothing_changes_is_cut_each_for_itself():
    """By hand, cut after 3 steps without a reward or a lost life: a negative reward counts, and a new game starts at 0."""
    rewards = [[0, 0, 0, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]]
    lost = [[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0, 1]]
    envs = Counted(rewards, lost)
    envs.max_unchanged = 3
    envs.reset()
    assert cuts(envs, 7) == [[0, 0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0], [0] * 7]
    both = Counted(rewards, lost, cap=2)  # whichever comes first
    both.max_unchanged = 3
    both.reset()
    assert cuts(both, 7) == [[0, 1, 0, 1, 0, 1, 0]] * 3
    never = Counted(rewards, lost)
    never.reset()
    assert cuts(never, 7) == [[0] * 7] * 3


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
            one.reset_where(step.done)
    two = GymEnvs("CartPole-v1", 3, seed=2)
    two.load_state_dict(one.state_dict())
    for _ in range(60):
        actions = rng.integers(2, size=3)
        a, b = one.step(actions), two.step(actions)
        assert (a.obs == b.obs).all()
        assert (a.scores == b.scores).all()
        if a.done.any():
            assert (one.reset_where(a.done) == two.reset_where(b.done)).all()


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Reacher-v5"])
def test_vector_actions_are_clipped_kept_and_replayed(env_id):
    """Restored from (seed, resets, actions) a MuJoCo task goes on with the same bits; actions beyond the bounds act like the bound."""
    rng = np.random.default_rng(0)
    envs = GymEnvs(env_id, 2, seed=5)
    envs.reset()
    for _ in range(70):
        step = envs.step(rng.normal(0, 2, size=(2, *envs.action_shape)))
        if step.done.any():
            envs.reset_where(step.done)
    copy = GymEnvs(env_id, 2, seed=5)
    copy.load_state_dict(envs.state_dict())
    wide, bound = np.full((2, *envs.action_shape), 50.0), np.tile(envs.envs[0].action_space.high, (2, 1))
    for _ in range(3):
        one, two = envs.step(wide), copy.step(bound)
        assert np.array_equal(one.obs, two.obs)
        assert np.array_equal(one.scores, two.scores)
        assert np.array_equal(one.lengths, two.lengths)


def test_the_picture_of_a_mujoco_task_moves_with_it():
    envs = GymEnvs("InvertedPendulum-v5", 1, seed=0)
    envs.reset()
    before = envs.screen(0)
    for _ in range(3):
        envs.step(np.full((1, 1), 3.0))
    after = envs.screen(0)
    assert before.shape == (420, 320, 3)
    assert before.dtype == np.uint8
    assert (before != after).any(axis=2).sum() > 50  # the cart has moved
