"""Environments whose every observation, reward and end is written down beforehand, so that a test can say what a training should
have seen: N of them, with lives that are lost, games that end and games that are cut."""

from __future__ import annotations

import numpy as np

from common.environments.vector import ReplayableEnvs, Step


class ScriptedEnvs(ReplayableEnvs):
    """Vector observations of `size` floats, all different; rewards between -3 and 3; a game ends, loses a life or meets its cap now
    and then. `steps` keeps what came back from each step, `acted` what it was given, `starts` the observations of the beginnings.

    num_actions: of numbered actions, or with `continuous` floats of a vector.
    """

    reseed_every = 1

    def __init__(
        self, num_envs: int, num_actions: int, continuous: bool = False, size: int = 3, cap: int = 11
    ):
        super().__init__(num_envs, 0, cap)
        self.obs_shape, self.obs_dtype, self.num_actions = (size,), np.dtype(np.float32), num_actions
        if continuous:
            self.action_shape, self.action_dtype = (num_actions,), np.dtype(np.float32)
            self.action_bounds = np.full(num_actions, -2, np.float32), np.full(num_actions, 4, np.float32)
        self.rng = np.random.default_rng(7)
        self.steps: list[Step] = []
        self.acted: list[np.ndarray] = []
        self.starts: list[tuple[int, np.ndarray, np.ndarray]] = []  # steps so far, which ones, observations
        self._obs = np.zeros((num_envs, size), np.float32)

    def _new(self) -> np.ndarray:
        """Not centred, of different spread in each number, some far out: a filter has something to do."""
        spread = np.array([0.2, 1.0, 4.0])[: self.obs_shape[0]]
        return (self.rng.standard_t(3, (self.num_envs, *self.obs_shape)) * spread + 1).astype(np.float32)

    def _reset(self, mask, seeds):
        self._obs = np.where(mask[:, None], self._new(), self._obs)
        self.starts.append((len(self.steps), mask.copy(), self._obs.copy()))
        return self._obs.copy()

    def _send(self, actions):
        self.acted.append(np.array(actions))

    def _recv(self):
        self._obs = self._new()
        rewards = self.rng.integers(-3, 4, self.num_envs).astype(np.float64)
        over, lost = self.rng.random(self.num_envs) < 0.08, self.rng.random(self.num_envs) < 0.1
        return self._obs.copy(), rewards, over, lost

    def recv(self) -> Step:
        self.steps.append(super().recv())
        return self.steps[-1]

    def seen(self) -> np.ndarray:
        """(steps + 1, N, size): what stood there before each step, and after the last one."""
        rows = [None] * (len(self.steps) + 1)
        for before, mask, obs in self.starts:
            last = self.steps[before - 1].obs if before else np.zeros_like(obs)
            rows[before] = np.where(mask[:, None], obs, last)
        for t, step in enumerate(self.steps):
            if rows[t + 1] is None:
                rows[t + 1] = step.obs
        return np.stack(rows)

    def stacked(self) -> np.ndarray:
        """(steps + 1, N, 2, size): the last two observations of the episode, zeros before it."""
        seen, done = self.seen(), self.column("done")
        before = np.concatenate([np.zeros_like(seen[:1]), seen[:-1]])
        before[np.concatenate([np.ones_like(done[:1]), done])] = 0
        return np.stack([before, seen], axis=2)

    def column(self, name: str) -> np.ndarray:
        """(steps, N) of what came back: rewards, game_over, life_lost, truncated, done."""
        return np.stack([getattr(step, name) for step in self.steps])
