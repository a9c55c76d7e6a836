"""Environments that step together, report raw scores, and can be put back exactly where they were.

An environment without randomness of its own in `step` is a function of three things: its last explicit seed, the number of
unseeded resets since, and the actions since the last reset. `ReplayableEnvs` keeps that triple for every environment, so that a
checkpoint stores a few kilobytes and a resumed run continues with identical observations.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import cv2
import gymnasium
import numpy as np

from common.environments.grids import draw_grid, grid_of


class Step(NamedTuple):
    """What came back from one agent step in each of N environments.

    obs: (N, *obs_shape), the observation that follows the action (of an ended episode: its last one).
    rewards: (N,) float64, raw, summed over the frames of the step.
    game_over, life_lost, truncated: (N,) bool. `truncated`: a time cap ended the episode, or that nothing happened any more in
    it (`ReplayableEnvs.max_unchanged`), and it might have gone on.
    scores, lengths: (N,) float64 and int64, raw return and agent steps of the episode so far, this step included.
    """

    obs: np.ndarray
    rewards: np.ndarray
    game_over: np.ndarray
    life_lost: np.ndarray
    truncated: np.ndarray
    scores: np.ndarray
    lengths: np.ndarray

    @property
    def done(self) -> np.ndarray:
        """(N,) bool: the episode has ended and the environment waits for `reset_where`."""
        return self.game_over | self.truncated


class ReplayableEnvs:
    """N environments in lockstep. Subclasses give `_reset(mask, seeds)` and `_send(actions)` / `_recv()`."""

    # An explicit seed can be slow (an Atari ROM is loaded again), unseeded resets must be repeated on restoring: a compromise.
    reseed_every = 50
    # of one environment's action: a number below `num_actions`, or a vector of floats
    action_shape: tuple[int, ...] = ()
    action_dtype = np.dtype(np.uint8)
    action_bounds: tuple[np.ndarray, np.ndarray] | None = None  # of such a vector: smallest and largest
    repeat_first_frame = False  # how `FrameStack.of` these environments begins an episode
    # agent steps without a reward and without a lost life after which an episode is cut; None: it never is for that
    max_unchanged: int | None = None

    def __init__(self, num_envs: int, seed: int, max_steps: int | None):
        self.num_envs = num_envs
        self.seed = seed
        self.max_steps = max_steps
        self.scores = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, dtype=np.int64)
        self.unchanged = np.zeros(num_envs, dtype=np.int64)  # agent steps since a reward or a lost life
        self._never = np.zeros(num_envs, dtype=bool)  # shared by steps
        self._never.flags.writeable = False
        self._episodes = np.zeros(num_envs, dtype=np.int64)  # resets so far, the first one included
        self._actions: list[bytearray] = [bytearray() for _ in range(num_envs)]

    def _reset(self, mask: np.ndarray, seeds: np.ndarray | None) -> np.ndarray:
        """Resets the masked environments (seeds: one per masked environment) and returns all observations (N, ...)."""
        raise NotImplementedError

    def _send(self, actions: np.ndarray) -> None:
        raise NotImplementedError

    def _recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns obs, rewards, game_over, life_lost."""
        raise NotImplementedError

    def reset(self, seeds: np.ndarray | None = None) -> np.ndarray:
        """Starts an episode everywhere, with the given seeds (N,) or the run's own; returns (N, *obs_shape)."""
        everyone = np.ones(self.num_envs, dtype=bool)
        if seeds is None:
            return self.reset_where(everyone)
        obs = self._reset(everyone, seeds)
        self._begin(everyone)
        return obs

    def reset_where(self, mask: np.ndarray) -> np.ndarray:
        """Starts a new episode in each masked environment; returns all current observations (N, *obs_shape)."""
        seeded = mask & (self._episodes % self.reseed_every == 0)
        obs = None
        if seeded.any():
            obs = self._reset(seeded, self._explicit_seeds(seeded))
        if (mask & ~seeded).any():
            obs = self._reset(mask & ~seeded, None)
        assert obs is not None, "restart needs at least one environment"
        self._begin(mask)
        return obs

    def _begin(self, mask: np.ndarray) -> None:
        self._episodes[mask] += 1
        self.scores[mask] = 0
        self.lengths[mask] = 0
        self.unchanged[mask] = 0
        for i in np.flatnonzero(mask):
            self._actions[i] = bytearray()

    def step(self, actions: np.ndarray) -> Step:
        """actions: (N,) integers below `num_actions`, or (N, *action_shape) floats."""
        self.send(actions)
        return self.recv()

    def send(self, actions: np.ndarray) -> None:
        """Starts the step in the background where the emulator can; `recv` collects it."""
        for history, action in zip(self._actions, actions, strict=True):
            history += np.asarray(action, dtype=self.action_dtype).tobytes()
        self._send(actions)

    def recv(self) -> Step:
        obs, rewards, game_over, life_lost = self._recv()
        self.scores += rewards
        self.lengths += 1
        self.unchanged += 1
        self.unchanged[(rewards != 0) | life_lost] = 0
        cut = self._never
        if self.max_steps:
            cut = self.lengths >= self.max_steps
        if self.max_unchanged:
            cut = cut | (self.unchanged >= self.max_unchanged)
        truncated = cut & ~game_over
        return Step(obs, rewards, game_over, life_lost, truncated, self.scores.copy(), self.lengths.copy())

    def _explicit_seeds(self, mask: np.ndarray) -> np.ndarray:
        """One 31-bit seed per masked environment: a function of (seed, environment, episode), never of the past."""
        return np.array(
            [
                np.random.SeedSequence((self.seed, int(i), int(self._episodes[i]))).generate_state(1)[0] >> 1
                for i in np.flatnonzero(mask)
            ],
            dtype=np.int64,
        )

    def state_dict(self) -> dict:
        return {
            "episodes": self._episodes.copy(),
            "actions": [
                np.frombuffer(bytes(a), dtype=self.action_dtype).reshape(-1, *self.action_shape).copy()
                for a in self._actions
            ],
        }

    def load_state_dict(self, state: dict) -> np.ndarray:
        """Replays each environment to where it was; returns the current observations (N, *obs_shape).

        Environments in mid-episode have different pasts: each is reset so late that all arrive together.
        """
        episodes = np.asarray(state["episodes"], dtype=np.int64)
        past = [np.asarray(a, dtype=self.action_dtype) for a in state["actions"]]
        if len(past) != self.num_envs or len(episodes) != self.num_envs:
            raise ValueError(f"the checkpoint holds {len(past)} environments, this run has {self.num_envs}")
        longest = max(len(a) for a in past)
        idle = np.zeros(self.action_shape, dtype=self.action_dtype)
        obs = self._reset(np.ones(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=np.int64))
        for t in range(longest + 1):
            for i in (i for i in range(self.num_envs) if longest - len(past[i]) == t):
                only = np.arange(self.num_envs) == i
                last = int(episodes[i]) - 1
                self._episodes[i] = last - last % self.reseed_every
                for _ in range(last % self.reseed_every + 1):
                    obs = self.reset_where(only)
            if t < longest:
                actions = np.array(
                    [a[t - (longest - len(a))] if t >= longest - len(a) else idle for a in past]
                )
                step = self.step(actions)
                obs = step.obs
                early = np.array([t < longest - len(a) for a in past]) & step.game_over
                if early.any():  # an environment still waiting for its turn; what it does has no effect
                    self._reset(early, None)
        return obs

    def screen(self, env: int) -> np.ndarray:
        """(rows, columns, 3) uint8: what a spectator of one environment sees now; 210 x 160 but for MuJoCo, twice that."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees the environments."""


class GymEnvs(ReplayableEnvs):
    """Gymnasium environments with vector observations: CartPole, the MuJoCo tasks; or with one number, a state of FrozenLake or Taxi.

    Actions are discrete (`num_actions` of them) or vectors of `num_actions` floats.
    clip_actions: vectors are clipped to the environment's bounds before it sees them. MuJoCo limits the forces either way, but
    what an action costs is counted of the action that the environment was given.
    The environment's own time limit is taken over as `max_steps`, so that a cap is reported as `truncated`.
    most_steps: a time limit, in agent steps, for an environment that has none of its own (CliffWalking); 0: none.
    """

    reseed_every = 1

    def __init__(self, env_id: str, num_envs: int, seed: int, clip_actions: bool = True, most_steps: int = 0):
        spec = gymnasium.spec(env_id)
        super().__init__(num_envs, seed, spec.max_episode_steps or most_steps or None)
        self.grid = grid_of(env_id)
        if "mujoco" in str(spec.entry_point):
            import mujoco

            # or MuJoCo leaves a MUJOCO_LOG.TXT in the current folder over attributes of Gymnasium's own model files
            mujoco.set_mju_user_warning(lambda _: None)
        with (
            warnings.catch_warnings()
        ):  # that there is a later version of the task than the one that a paper needs
            warnings.simplefilter("ignore")
            self.envs = [gymnasium.make(env_id).unwrapped for _ in range(num_envs)]
        self.obs_shape = self.envs[0].observation_space.shape
        self.obs_dtype = np.dtype(np.float32)
        self._obs = np.zeros((num_envs, *self.obs_shape), dtype=np.float32)
        space = self.envs[0].action_space
        self._bounds = None
        if isinstance(space, gymnasium.spaces.Discrete):
            self.num_actions = int(space.n)
        else:
            self.action_shape, self.action_dtype = space.shape, np.dtype(np.float32)
            self.num_actions = space.shape[0]
            self.action_bounds = space.low, space.high
            self._bounds = self.action_bounds if clip_actions else None
        self._pending = np.zeros((num_envs, *self.action_shape), dtype=self.action_dtype)

    def _reset(self, mask, seeds):
        for k, i in enumerate(np.flatnonzero(mask)):
            self._obs[i], _ = self.envs[i].reset(seed=None if seeds is None else int(seeds[k]))
        return self._obs.copy()

    def _send(self, actions):
        self._pending = np.asarray(actions, dtype=self.action_dtype)
        if self._bounds is not None:
            self._pending = self._pending.clip(*self._bounds)

    def _recv(self):
        rewards, over = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool)
        for i, env in enumerate(self.envs):
            action = self._pending[i] if self.action_shape else int(self._pending[i])
            self._obs[i], rewards[i], over[i], _, _ = env.step(action)
        return self._obs.copy(), rewards, over, self._never

    def screen(self, env):
        if hasattr(self.envs[env], "model"):
            return draw_bodies(self.envs[env].model, self.envs[env].data)
        if self.grid:
            return draw_grid(self.grid, int(self._obs[env]))
        return draw_arms(self._obs[env]) if self.obs_shape == (6,) else draw_cart(self._obs[env])


def draw_arms(obs: np.ndarray) -> np.ndarray:
    """Acrobot's two links from its observation, (210, 160, 3) uint8; the line is the height that the tip has to reach."""
    picture = np.full((210, 160, 3), 245, np.uint8)
    first = np.arctan2(obs[1], obs[0])
    second = first + np.arctan2(obs[3], obs[2])
    joints = [np.array([80.0, 105.0])]
    for angle in (first, second):  # 0 hangs down
        joints.append(joints[-1] + 38 * np.array([np.sin(angle), np.cos(angle)]))
    cv2.line(picture, (0, 105 - 38), (160, 105 - 38), (120, 120, 120), 1)
    for a, b, colour in zip(joints, joints[1:], ((40, 60, 110), (190, 90, 40)), strict=False):
        cv2.line(picture, [int(v) for v in a], [int(v) for v in b], colour, 5, cv2.LINE_AA)
    return picture


def draw_cart(obs: np.ndarray) -> np.ndarray:
    """CartPole's cart and pole from its observation, (210, 160, 3) uint8; a blank screen for an observation of another kind."""
    picture = np.full((210, 160, 3), 245, np.uint8)
    if obs.shape == (4,):
        x, _, angle, _ = obs
        cart = (int(80 + 80 * x / 2.4), 150)
        tip = (int(cart[0] + 80 * np.sin(angle)), int(cart[1] - 80 * np.cos(angle)))
        cv2.line(picture, (0, 160), (160, 160), (120, 120, 120), 1)
        cv2.rectangle(picture, (cart[0] - 14, 150), (cart[0] + 14, 160), (40, 60, 110), -1)
        cv2.line(picture, cart, tip, (190, 90, 40), 4)
    return picture


def draw_bodies(model, data) -> np.ndarray:
    """A MuJoCo scene without OpenGL, (420, 320, 3) uint8: capsules and spheres as strokes, seen from the side.

    Tasks that move in the plane of the floor (Reacher, Swimmer: no geom leaves it) are seen from above.
    """
    import mujoco

    kinds = mujoco.mjtGeom
    drawn = [int(kind) for kind in (kinds.mjGEOM_CAPSULE, kinds.mjGEOM_SPHERE, kinds.mjGEOM_CYLINDER)]
    geoms = [g for g in range(model.ngeom) if model.geom_type[g] in drawn]
    centres = data.geom_xpos[geoms]
    along = data.geom_xmat[geoms].reshape(-1, 3, 3)[:, :, 2] * model.geom_size[geoms, 1:2]
    round_ones = model.geom_type[geoms] == int(kinds.mjGEOM_SPHERE)
    along[round_ones] = 0
    flat = np.ptp(np.concatenate([centres + along, centres - along])[:, 2]) < 0.05
    axes = [0, 1] if flat else [0, 2]
    small = flat and np.abs(centres[:, axes]).max() < 0.4
    reach = 0.35 if small else 2.0  # metres from the middle to the edge
    middle = np.zeros(2) if small else data.subtree_com[1][axes].copy()
    if not flat:
        middle[1] = 0.8
    scale = 160 / reach
    picture = np.full((420, 320, 3), 245, np.uint8)
    if not flat:
        floor = int(210 + scale * middle[1])
        cv2.line(picture, (0, floor), (320, floor), (120, 120, 120), 2)
        for mark in np.arange(
            np.floor(middle[0] - reach), middle[0] + reach + 1, 0.5
        ):  # what shows that it moves
            at = int(160 + scale * (mark - middle[0]))
            cv2.line(picture, (at, floor), (at, floor + 8), (120, 120, 120), 2)
    for centre, half, g in zip(centres, along, geoms, strict=True):
        ends = [(p[axes] - middle) * scale * (1, -1) + (160, 210) for p in (centre - half, centre + half)]
        width = max(int(2 * scale * model.geom_size[g, 0]), 4)
        colour = (190, 90, 40) if g % 2 else (40, 60, 110)
        cv2.line(picture, *[tuple(int(v) for v in end) for end in ends], colour, width, cv2.LINE_AA)
    return picture
