"""Atari 2600 as the papers play it: emulator, preprocessing, no-op starts, lives, caps.

Two paths give the same observations (a test compares them): `AtariEnvs` steps many games in C++ threads and is what the
replications train with; `make_atari_env` is one Gymnasium environment made of small wrappers, to import in a notebook.

Source of each step of the pipeline: Mnih et al. 2015, Methods, "Preprocessing", and the authors' released code.
"""

from __future__ import annotations

import difflib
import hashlib

import ale_py
import cv2
import gymnasium
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

from common.environments.vector import ReplayableEnvs
from common.errors import UserError

SCREEN = (210, 160)  # rows, columns of the emulator's RGB screen
SIZE = 84  # the papers' square frame
NO_CAP = 10**9  # frames; the caps of the papers are counted here, in agent steps

# Frames without a reward and without a lost life after which a game is cut: five minutes. Breakout's program stops for good after
# 65,536 frames without a ball: the paddle moves, no FIRE launches a ball, no life is lost; its colours even change. So what is
# watched are score and lives, not the screen.
UNCHANGED_FRAMES = 18_000

# The frames of a game after which an emulator itself says "game over"; None stands for all games that are not named. xitari, of DQN's
# released code: RomSettings.hpp (eight hours) and Pong.cpp.
TIME_LIMITS: dict[str, dict[str | None, int]] = {"xitari": {"pong": 65_000, None: 1_728_000}, "none": {}}

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
cv2.setNumThreads(1)  # frames are tiny, and the learner needs the cores
gymnasium.register_envs(ale_py)


def check_rom(game: str) -> str:
    """The SHA-256 of the game's ROM, as hex. Raises UserError for a game that ale-py does not ship."""
    path = roms.get_rom_path(game) if game in roms.get_all_rom_ids() else None
    if path is None:
        near = difflib.get_close_matches(game, roms.get_all_rom_ids(), n=3) or ["pong", "breakout"]
        raise UserError(
            f"no ROM for the game {game!r}; ale-py has {len(roms.get_all_rom_ids())} games, e.g. {', '.join(near)}"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def has_fire(game: str) -> bool:
    """Whether FIRE is in the game's minimal action set."""
    emulator = ale_py.ALEInterface()
    emulator.loadROM(roms.get_rom_path(game))
    return ale_py.Action.FIRE in emulator.getMinimalActionSet()


def nature_frame(rgb: np.ndarray) -> np.ndarray:
    """(210, 160, 3) uint8 RGB, already max-pooled -> (84, 84) uint8: luminance, then averages over areas, without a crop.

    The "bilinear" of the released code of Mnih et al. 2015 (Lua Torch's image.scale) averages areas when it shrinks.
    """
    return cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


CROP_2013 = slice(18, 102)  # rows of the 110 that are kept


def dqn_2013_frame(rgb: np.ndarray) -> np.ndarray:
    """(210, 160, 3) uint8 RGB -> (84, 84) uint8: luminance, averages over areas to 110 x 84, and a crop of its lower part.

    Source: Mnih et al. 2013, section 4.1, which says neither how it resizes nor where it crops: here areas are averaged, as in
    the same authors' code of 2015, and 18 rows go at the top and 8 at the bottom.
    """
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (SIZE, 110), interpolation=cv2.INTER_AREA)[CROP_2013]


# "ale" is the emulator's own, in its threads
PREPROCESSING = {"nature": nature_frame, "ale": None, "dqn_2013": dqn_2013_frame}


class AtariEnvs(ReplayableEnvs):
    """N games of one ROM: minimal action set, no sticky actions, raw scores, whole games.

    A lost life is reported (`life_lost`) and never resets the game. Observations are single frames (N, 84, 84) uint8; stacks
    are built by the replay memory or by `FrameStack`.

    preprocessing: "nature" takes the maximum over the last two raw frames per RGB channel, then luminance, then averages over
    areas; "ale" lets the emulator's threads take the luminance before the maximum: faster, and not the papers';
    "dqn_2013" takes the last raw frame alone, and crops (`dqn_2013_frame`).
    noop_max: episodes start with 1 to this many no-op frames, uniformly; 0 for none.
    fire_reset: after the no-ops the emulator presses FIRE for one frame, in games that have it.
    max_frames: emulator frames after which an episode is truncated, or None. Apart from it an episode is truncated when neither
    score nor lives change for 18,000 frames (`UNCHANGED_FRAMES`).
    time_limit: whose emulator's limit ends a game, as game over (`TIME_LIMITS`); "none": a game goes on. It counts all frames of
    a game, no-ops included, and ends it with the agent step in which it is reached.
    repeat_first_frame: how `FrameStack.of` these environments begins.
    threads: C++ emulator threads (0: one per environment, at most one per core); they never change results.
    """

    def __init__(
        self,
        game: str,
        num_envs: int = 1,
        *,
        seed: int = 0,
        frame_skip: int = 4,
        noop_max: int = 30,
        max_frames: int | None = None,
        time_limit: str = "none",
        preprocessing: str = "nature",
        keep_rgb: bool = False,
        fire_reset: bool = False,
        repeat_first_frame: bool = False,
        threads: int = 0,
    ):
        check_rom(game)
        if preprocessing not in PREPROCESSING:
            raise UserError(
                f"preprocessing {preprocessing!r} is unknown; allowed: {', '.join(PREPROCESSING)}"
            )
        if time_limit not in TIME_LIMITS:
            raise UserError(f"time_limit {time_limit!r} is unknown; allowed: {', '.join(TIME_LIMITS)}")
        self._frame = PREPROCESSING[preprocessing]
        super().__init__(num_envs, seed, max_frames // frame_skip if max_frames else None)
        self.max_unchanged = UNCHANGED_FRAMES // frame_skip
        limits = TIME_LIMITS[time_limit]
        self._limit = limits.get(game, limits.get(None, NO_CAP))
        self.obs_shape, self.obs_dtype = (SIZE, SIZE), np.dtype(np.uint8)
        self.noop_max, self.keep_rgb = noop_max, keep_rgb
        self.rgb: np.ndarray | None = None  # (N, 210, 160, 3) of the latest step, for videos
        self._in_cpp = preprocessing == "ale"
        self.repeat_first_frame = repeat_first_frame
        self._fires = int(fire_reset and has_fire(game))  # frames

        def make(rows: int, columns: int, grayscale: bool) -> AtariVectorEnv:
            return AtariVectorEnv(
                game,
                num_envs=num_envs,
                num_threads=threads,
                max_num_frames_per_episode=NO_CAP,
                repeat_action_probability=0.0,
                full_action_space=False,
                img_height=rows,
                img_width=columns,
                grayscale=grayscale,
                stack_num=1,
                frameskip=frame_skip,
                maxpool=preprocessing != "dqn_2013",
                # it draws from 0 to one less, FIRE counted in; `_reset` draws again at no no-op
                noop_max=noop_max + 1 + self._fires if noop_max else 0,
                episodic_life=False,
                life_loss_info=False,
                reward_clipping=False,
                use_fire_reset=bool(self._fires),
            )

        self._envs = make(SIZE, SIZE, True) if self._in_cpp else make(*SCREEN, False)
        # The emulator's own small gray frames hide its screens: whoever wants them has the same games a second time, in colour
        self._twins = make(*SCREEN, False) if self._in_cpp and keep_rgb else None
        self.num_actions = int(self._envs.single_action_space.n)
        self._lives = np.zeros(num_envs, dtype=np.int64)

    def _frames(self, screens: np.ndarray) -> np.ndarray:
        if self._in_cpp:
            return screens[:, 0]
        if self.keep_rgb:
            self.rgb = screens[:, 0]
        return np.stack([self._frame(screen) for screen in screens[:, 0]])

    def _reset(self, mask, seeds):
        if self._twins is not None:
            self.rgb = self._reset_games(self._twins, mask, seeds)[0][:, 0]
        screens, info = self._reset_games(self._envs, mask, seeds)
        self._lives = info["lives"].astype(np.int64)
        return self._frames(screens)

    def _reset_games(self, envs, mask, seeds):
        # A masked reset at once, instead of the emulator's own at the next step: no step is then ever a dead one.
        options = None if mask.all() else {"reset_mask": mask}
        screens, info = envs.reset(seed=seeds, options=options)
        while self.noop_max and (none := mask & (info["episode_frame_number"] == self._fires)).any():
            screens, info = envs.reset(options={"reset_mask": none})
        return screens, info

    def _send(self, actions):
        for envs in (self._envs, self._twins):
            if envs is not None:
                envs.send(np.ascontiguousarray(actions, dtype=np.int64))

    def _recv(self):
        if self._twins is not None:
            self.rgb = self._twins.recv()[0][:, 0]
        screens, rewards, game_over, _, info = self._envs.recv()
        lives = info["lives"].astype(np.int64)
        life_lost = lives < self._lives
        self._lives = lives
        game_over = game_over | (info["episode_frame_number"] >= self._limit)
        return self._frames(screens), rewards.astype(np.float64), game_over, life_lost

    def screen(self, env):
        if self.rgb is None:
            raise ValueError("screens are kept only with keep_rgb=True")
        return self.rgb[env].copy()

    def close(self):
        for envs in (self._envs, self._twins):
            if envs is not None:
                envs.close()


class FrameStack:
    """The last `depth` frames of each environment, (N, depth, *shape).

    Before an episode's first frame stand zero planes, or that frame itself (repeat_first: OpenAI's baselines of 2017).
    """

    def __init__(self, num_envs: int, depth: int, shape: tuple[int, ...], dtype, repeat_first: bool = False):
        self.planes = np.zeros((num_envs, depth, *shape), dtype=dtype)
        self.repeat_first = repeat_first

    @classmethod
    def of(cls, envs: ReplayableEnvs, depth: int) -> FrameStack:
        """For these environments' observations."""
        return cls(envs.num_envs, depth, envs.obs_shape, envs.obs_dtype, envs.repeat_first_frame)

    def begin_episodes(self, obs: np.ndarray, mask: np.ndarray) -> None:
        self.planes[mask] = obs[mask][:, None] if self.repeat_first else 0
        self.planes[mask, -1] = obs[mask]

    def push(self, obs: np.ndarray) -> None:
        self.planes[:, :-1] = self.planes[:, 1:]
        self.planes[:, -1] = obs

    def state_dict(self) -> dict:
        return {"planes": self.planes.copy()}

    def load_state_dict(self, state: dict) -> None:
        self.planes[...] = state["planes"]


# --- the same pipeline as Gymnasium wrappers, one environment ---


class NoopStart(gymnasium.Wrapper):
    """Plays 1 to `noop_max` no-op frames after a reset, uniformly; `options={"noops": k}` fixes the number."""

    def __init__(self, env: gymnasium.Env, noop_max: int = 30):
        super().__init__(env)
        self.noop_max = noop_max

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed)
        noops = (options or {}).get("noops", int(self.unwrapped.np_random.integers(1, self.noop_max + 1)))
        for _ in range(noops):
            obs, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                obs, info = self.env.reset()
        return obs, info


class MaxAndSkip(gymnasium.Wrapper):
    """Repeats an action for `skip` frames, sums the rewards, takes the maximum of the last two RGB screens per channel."""

    def __init__(self, env: gymnasium.Env, skip: int = 4):
        super().__init__(env)
        self.skip = skip

    def step(self, action):
        total, screens = 0.0, []
        for _ in range(self.skip):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            screens.append(obs)
            if terminated or truncated:
                break
        return np.max(screens[-2:], axis=0), total, terminated, truncated, info


class UnchangedLimit(gymnasium.Wrapper):
    """Truncates a game in which for `steps` agent steps no reward came and no life was lost."""

    def __init__(self, env: gymnasium.Env, steps: int):
        super().__init__(env)
        self.steps, self.unchanged, self.lives = steps, 0, 0

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        self.unchanged, self.lives = 0, info["lives"]
        return obs, info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.unchanged = 0 if reward or info["lives"] < self.lives else self.unchanged + 1
        self.lives = info["lives"]
        return obs, reward, terminated, truncated or (self.unchanged >= self.steps and not terminated), info


class NatureFrame(gymnasium.ObservationWrapper):
    """RGB screen -> (84, 84) uint8."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (SIZE, SIZE), np.uint8)

    def observation(self, observation):
        return nature_frame(observation)


def make_atari_env(
    game: str,
    *,
    noop_max: int = 30,
    frame_skip: int = 4,
    max_frames: int | None = 18_000,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """One game as the 2015 paper sees it: observations (4, 84, 84) uint8, raw rewards, whole games.

    max_frames: emulator frames (the paper's evaluation: 5 minutes = 18,000) after which `truncated` is True; it also is when
    neither score nor lives change for that long.
    """
    check_rom(game)
    camel = "".join(part.capitalize() for part in game.split("_"))
    env = gymnasium.make(
        f"ALE/{camel}-v5",
        frameskip=1,
        repeat_action_probability=0.0,
        full_action_space=False,
        render_mode=render_mode,
        max_num_frames_per_episode=NO_CAP,
    )
    env = MaxAndSkip(NoopStart(env, noop_max), frame_skip)
    env = NatureFrame(UnchangedLimit(env, UNCHANGED_FRAMES // frame_skip))
    if max_frames:
        env = gymnasium.wrappers.TimeLimit(env, max_frames // frame_skip)
    return gymnasium.wrappers.FrameStackObservation(env, 4, padding_type="zero")
