"""The vector path against the wrappers, lives, caps, exact restoring, and the pipeline's arithmetic."""

from __future__ import annotations

import ale_py
import cv2
import gymnasium
import numpy as np
import pytest

from common.environments import atari
from common.environments.atari import (
    PREPROCESSING,
    TIME_LIMITS,
    AtariEnvs,
    FrameStack,
    MaxAndSkip,
    UnchangedLimit,
    dqn_2013_frame,
    make_atari_env,
    nature_frame,
)
from common.errors import UserError


def watch_noops(envs: AtariEnvs) -> list[int]:
    """The list to which each later reset of the only environment adds its number of no-op frames."""
    seen, real = [], envs._envs.reset

    def reset(**options):
        screens, info = real(**options)
        seen.append(int(info["episode_frame_number"][0]))
        return screens, info

    envs._envs.reset = reset
    return seen


@pytest.mark.parametrize("game", ["pong", "breakout", "seaquest"])
def test_vector_path_equals_the_wrappers(game):
    rng = np.random.default_rng(0)
    envs = AtariEnvs(game, 1, seed=3)
    seen = watch_noops(envs)
    stack = FrameStack(1, 4, (84, 84), np.uint8)
    stack.begin_episodes(envs.reset(), np.ones(1, dtype=bool))
    noops = seen[-1]
    assert 1 <= noops <= 30
    env = make_atari_env(game, max_frames=None)
    obs, _ = env.reset(seed=3, options={"noops": noops})
    assert (obs == stack.planes[0]).all()
    assert (obs[:3] == 0).all()
    assert obs[3].any()
    score = 0.0
    for _ in range(1200):
        action = int(rng.integers(envs.num_actions))
        step = envs.step(np.array([action]))
        stack.push(step.obs)
        obs, reward, terminated, _, _ = env.step(action)
        assert reward == step.rewards[0]
        assert terminated == step.game_over[0]
        score += reward
        if terminated:  # the screen after the end is never anybody's state
            break
        assert (obs == stack.planes[0]).all()
    assert step.scores[0] == score
    assert score != 0


def test_noops_are_one_to_thirty_uniformly():
    """Chi-square over 30 cells; the critical value at p = 0.001 with 29 degrees of freedom is 58.3."""
    envs = AtariEnvs("pong", 1, seed=0)
    seen, kept = watch_noops(envs), []
    for _ in range(600):
        envs.reset()
        kept.append(seen[-1])
    counts = np.bincount(kept, minlength=31)
    assert counts[0] == 0
    assert counts[1:].min() > 0
    assert len(counts) == 31
    assert ((counts[1:] - 20.0) ** 2 / 20.0).sum() < 58.3


class LivesOfAScript:
    """An emulator of two games that only says how many lives there are; the second row is after the first step."""

    def __init__(self, lives: list[list[int]]):
        self.lives = [np.array(row) for row in lives]

    def send(self, actions):
        pass

    def recv(self):
        info = {"lives": self.lives.pop(0), "episode_frame_number": np.zeros(2, np.int64)}
        return (
            np.zeros((2, 1, 210, 160, 3), np.uint8),
            np.zeros(2),
            np.zeros(2, bool),
            np.zeros(2, bool),
            info,
        )

    def close(self):
        pass


def test_an_extra_life_is_not_a_lost_one():
    """Lives of two games, step by step: one gains a life and loses it again, the other loses two."""
    envs = AtariEnvs("breakout", 2)
    envs.reset()  # five lives
    envs._envs.close()
    envs._envs = LivesOfAScript([[5, 5], [6, 5], [6, 4], [5, 4], [5, 3]])
    lost = [envs.step(np.zeros(2, np.int64)).life_lost.tolist() for _ in range(5)]
    assert lost == [[False, False], [False, False], [False, True], [True, False], [False, True]]


def test_a_life_lost_in_breakout_does_not_reset_the_game():
    """FIRE once and wait: the ball is lost five times, the game ends once, the score and the bricks stay."""
    envs = AtariEnvs("breakout", 1, seed=1)
    rng = np.random.default_rng(1)
    envs.reset()
    lost, lengths = 0, []
    for _ in range(3000):
        step = envs.step(rng.integers(envs.num_actions, size=1))
        lost += int(step.life_lost[0])
        lengths.append(int(step.lengths[0]))
        if step.game_over[0]:
            break
    assert step.game_over[0]
    assert lost == 5
    assert lengths == list(range(1, len(lengths) + 1))  # one uninterrupted game


def test_pong_has_no_lives_and_game_over_is_the_only_end():
    envs = AtariEnvs("pong", 2, seed=1)
    envs.reset()
    ended = 0
    for _ in range(1500):
        step = envs.step(np.array([0, 0]))
        assert not step.life_lost.any()
        if step.done.any():
            assert (step.scores[step.done] == -21).all()
            ended += int(step.done.sum())
            envs.reset_where(step.done)
    assert ended >= 2


def test_a_cap_truncates_and_is_counted_in_frames():
    envs = AtariEnvs("pong", 1, seed=1, max_frames=400)
    envs.reset()
    for t in range(1, 101):
        step = envs.step(np.array([0]))
        assert step.truncated[0] == (t == 100)
        assert not step.game_over[0]


def no_ops_until_done(envs: AtariEnvs, most: int) -> list[tuple[bool, bool, int]]:
    """What ended each environment's first game, and after how many steps, with no-ops alone."""
    ends = [None] * envs.num_envs
    for _ in range(most):
        step = envs.step(np.zeros(envs.num_envs, int))
        for i in np.flatnonzero(step.done):
            ends[i] = ends[i] or (bool(step.game_over[i]), bool(step.truncated[i]), int(step.lengths[i]))
        if all(ends):
            break
    return ends


@pytest.mark.parametrize("preprocessing", ["nature", "ale"])
def test_a_game_that_stands_still_is_cut(preprocessing, monkeypatch):
    """Breakout without a ball, after 1,800 frames instead of 18,000; a game restored on the way is cut at the same step."""
    for skip in (3, 4):
        assert AtariEnvs("breakout", frame_skip=skip).max_unchanged == 18_000 // skip
    monkeypatch.setattr(atari, "UNCHANGED_FRAMES", 1_800)
    envs = AtariEnvs("breakout", 1, seed=0, frame_skip=40, preprocessing=preprocessing)
    envs.reset()
    for _ in range(30):
        assert not envs.step(np.array([0])).done.any()
    again = AtariEnvs("breakout", 1, seed=0, frame_skip=40, preprocessing=preprocessing)
    again.load_state_dict(envs.state_dict())
    for one in (envs, again):
        assert no_ops_until_done(one, 50) == [(False, True, 45)]


def test_a_point_lost_keeps_a_game_going():
    """Pong with no-ops is lost 0 : 21; a step without a score is often, one hundred in a row are never."""
    envs = AtariEnvs("pong", 1, seed=0)
    envs.max_unchanged = 100
    envs.reset()
    over, cut, _ = no_ops_until_done(envs, 2000)[0]
    assert (over, cut) == (True, False)


def test_the_emulators_own_limit_is_game_over_and_counts_all_frames(monkeypatch):
    """Each game has its own limit; no-op frames count, as xitari counts them."""
    assert TIME_LIMITS["xitari"] == {"pong": 65_000, None: 1_728_000}
    monkeypatch.setitem(TIME_LIMITS, "xitari", {"pong": 200, None: 120})
    for game, limit in (("pong", 200), ("breakout", 120)):
        envs = AtariEnvs(game, 1, seed=3, time_limit="xitari")
        seen = watch_noops(envs)
        envs.reset()
        steps = -(-(limit - seen[-1]) // 4)
        assert no_ops_until_done(envs, 300) == [(True, False, steps)]
    free = AtariEnvs("pong", 1, seed=3)
    free.reset()
    assert no_ops_until_done(free, 60) == [None]
    with pytest.raises(UserError, match=r"time_limit 'xitary'.*xitari"):
        AtariEnvs("pong", time_limit="xitary")


def test_the_wrapper_cuts_where_the_vector_path_does():
    env = UnchangedLimit(Rewarded([0, 1, 0, 0, 0, 0, 0], lives=[3, 3, 3, 3, 2, 2, 2]), 3)
    env.reset()
    assert [env.step(0)[3] for _ in range(7)] == [False, False, False, False, False, False, False]
    env = UnchangedLimit(Rewarded([0, 1, 0, 0, 0], lives=[3] * 5), 3)
    env.reset()
    assert [env.step(0)[3] for _ in range(5)] == [False, False, False, False, True]


class Rewarded(gymnasium.Env):
    """Gives the rewards and the lives of a list."""

    def __init__(self, rewards: list[float], lives: list[int]):
        self.rewards, self.lives, self.t = rewards, lives, 0

    def reset(self, **_):
        return None, {"lives": self.lives[0]}

    def step(self, action):
        self.t += 1
        return None, self.rewards[self.t - 1], False, False, {"lives": self.lives[self.t - 1]}


def test_threads_do_not_change_results():
    def play(threads: int) -> np.ndarray:
        envs = AtariEnvs("breakout", 3, seed=5, threads=threads)
        rng = np.random.default_rng(0)
        envs.reset()
        frames = []
        for _ in range(150):
            step = envs.step(rng.integers(envs.num_actions, size=3))
            frames.append(step.obs)
            if step.done.any():
                envs.reset_where(step.done)
        return np.array(frames)

    assert (play(1) == play(2)).all()


@pytest.mark.parametrize("game", ["breakout", "pong"])
def test_restored_environments_have_the_same_future(game):
    rng = np.random.default_rng(0)
    one = AtariEnvs(game, 3, seed=7)
    one.reseed_every = 3
    one.reset()
    ended = 0
    while ended < 7:
        step = one.step(rng.integers(one.num_actions, size=3))
        if step.done.any():
            ended += int(step.done.sum())
            one.reset_where(step.done)
    for _ in range(40):
        step = one.step(rng.integers(one.num_actions, size=3))
    two = AtariEnvs(game, 3, seed=7)
    two.reseed_every = 3
    obs = two.load_state_dict(one.state_dict())
    assert (obs == step.obs).all()
    assert (two.scores == one.scores).all()
    assert (two.lengths == one.lengths).all()
    for _ in range(300):
        actions = rng.integers(one.num_actions, size=3)
        a, b = one.step(actions), two.step(actions)
        assert (a.obs == b.obs).all()
        assert (a.rewards == b.rewards).all()
        if a.done.any():
            assert (one.reset_where(a.done) == two.reset_where(b.done)).all()


def area_average(gray: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Every new pixel is the mean of the part of the picture that it covers, in float64."""

    def shares(old: int, new: int) -> np.ndarray:
        edges = np.arange(new + 1) * old / new
        overlap = np.minimum(edges[1:, None], np.arange(1, old + 1)) - np.maximum(
            edges[:-1, None], np.arange(old)
        )
        return overlap.clip(0) * new / old

    return shares(gray.shape[0], rows) @ gray @ shares(gray.shape[1], columns).T


def test_luminance_and_averages_over_areas():
    """Y = .299 R + .587 G + .114 B; within a grey level of the float64 average, on noise; every row and column has weight."""
    frame = nature_frame(np.full((210, 160, 3), (200, 100, 50), np.uint8))
    assert frame.shape == (84, 84)
    assert frame.dtype == np.uint8
    assert set(np.unique(frame)) == {round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)}
    noise = np.random.default_rng(0).integers(0, 256, (210, 160, 3), dtype=np.uint8)
    slow = area_average(noise @ np.array([0.299, 0.587, 0.114]), 84, 84)
    assert np.abs(nature_frame(noise) - slow).max() <= 1.01
    slow = area_average(noise @ np.array([0.299, 0.587, 0.114]), 110, 84)[18:102]
    assert np.abs(dqn_2013_frame(noise) - slow).max() <= 1.01


@pytest.mark.parametrize(("frame", "rows"), [(nature_frame, range(210)), (dqn_2013_frame, range(35, 194))])
def test_every_row_and_column_of_the_screen_has_weight(frame, rows):
    """Of 2013 every row of the crop, which begins at 18 / 110 of the screen and ends at 102 / 110."""
    for row in range(210):
        one = np.zeros((210, 160, 3), np.uint8)
        one[row] = 255
        seen = frame(one).any()
        assert seen or row not in rows, row
        assert not seen or row in rows or row in (34, 194), row  # a share of these
    for column in range(160):
        one = np.zeros((210, 160, 3), np.uint8)
        one[:, column] = 255
        assert frame(one).any(), column


@pytest.mark.parametrize("game", ["pong", "breakout", "seaquest"])
@pytest.mark.parametrize("preprocessing", ["nature", "dqn_2013"])
def test_the_whole_pipeline_within_a_grey_level_of_float64(game, preprocessing):
    """300 agent steps of the vector path against frames of the bare emulator, one by one, in arithmetic of its own: maximum of the
    last two frames per channel (2013: the last alone), luminance, averages over areas, the crop, nothing rounded on the way."""
    envs = AtariEnvs(game, 1, seed=3, noop_max=0, preprocessing=preprocessing)
    obs = envs.reset(np.array([3]))
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", 3)
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(ale_py.roms.get_rom_path(game))
    emulator.reset_game()
    actions, rng, worst = emulator.getMinimalActionSet(), np.random.default_rng(0), 0.0
    frames = [emulator.getScreenRGB().astype(np.float64)]
    for _ in range(300):
        screen = frames[-1] if preprocessing == "dqn_2013" else np.maximum.reduce(frames[-2:])
        gray = screen[..., 0] * 0.299 + screen[..., 1] * 0.587 + screen[..., 2] * 0.114
        small = (
            area_average(gray, 84, 84) if preprocessing == "nature" else area_average(gray, 110, 84)[18:102]
        )
        worst = max(worst, np.abs(obs[0] - small).max())
        action = int(rng.integers(len(actions)))
        step = envs.step(np.array([action]))
        frames, reward = [], 0.0
        for _ in range(4):
            reward += emulator.act(actions[action])
            frames.append(emulator.getScreenRGB().astype(np.float64))
        assert reward == step.rewards[0]
        assert step.game_over[0] == emulator.game_over()
        obs = step.obs
        if step.game_over[0]:
            break
    assert 0 < worst <= 1.0


def test_fire_is_pressed_once_after_the_no_ops_where_a_game_has_it():
    """Against the bare emulator: 1 to 30 no-op frames, then FIRE for one frame; Asterix has no FIRE."""
    for game, fires in (("breakout", 1), ("asterix", 0)):
        envs = AtariEnvs(game, 4, seed=2, fire_reset=True)
        everyone = np.ones(4, dtype=bool)
        starts = [envs._reset_games(envs._envs, everyone, None)[1] for _ in range(20)]
        counts = np.concatenate([info["episode_frame_number"] for info in starts])
        assert 1 + fires <= counts.min() <= 4 + fires
        assert 27 + fires <= counts.max() <= 30 + fires
    plain, fired = (AtariEnvs("breakout", 1, seed=2, noop_max=0, fire_reset=on) for on in (False, True))
    assert plain.reset().sum() != fired.reset().sum()
    bare = gymnasium.make(
        "ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=False
    )
    bare.reset(seed=2)
    screen = bare.step(1)[0]
    assert (nature_frame(screen) == fired.reset(np.array([2]))[0]).all()


def test_a_game_in_training_is_cut_at_its_cap():
    envs = AtariEnvs("breakout", 2, seed=0, max_frames=40, frame_skip=4)
    envs.reset()
    cut = [envs.step(np.zeros(2, int)).truncated.tolist() for _ in range(10)]
    assert cut == [[False, False]] * 9 + [[True, True]]


def test_stacks_begin_with_zeros_or_with_the_first_frame():
    obs = np.arange(2 * 4, dtype=np.uint8).reshape(2, 2, 2) + 1
    for repeat in (False, True):
        stack = FrameStack(2, 3, (2, 2), np.uint8, repeat_first=repeat)
        stack.begin_episodes(obs, np.array([True, True]))
        stack.push(obs + 100)
        stack.begin_episodes(obs + 50, np.array([False, True]))
        before = obs[0] if repeat else np.zeros((2, 2))
        assert (stack.planes[0] == np.stack([before, obs[0], obs[0] + 100])).all()
        first = obs[1] + 50
        assert (stack.planes[1] == np.stack([first * repeat, first * repeat, first])).all()


class Flicker(gymnasium.Env):
    """Screens count up; the reward of frame k is k; the third step of the game ends it when asked to."""

    def __init__(self, ends_at: int | None = None):
        self.k, self.ends_at = 0, ends_at

    def step(self, action):
        self.k += 1
        screen = np.zeros((210, 160, 3), np.uint8)
        screen[..., self.k % 3] = 10 * self.k
        return screen, float(self.k), self.k == self.ends_at, False, {}


def test_an_action_is_repeated_rewards_are_summed_and_the_maximum_is_per_channel():
    env = MaxAndSkip(Flicker(), 4)
    screen, reward, _, _, _ = env.step(0)
    assert reward == 1 + 2 + 3 + 4
    assert screen[0, 0].tolist() == [30, 40, 0]  # frames 3 and 4, each in a channel of its own
    assert int(nature_frame(screen)[0, 0]) == round(0.299 * 30 + 0.587 * 40)
    screen, reward, terminated, _, _ = MaxAndSkip(Flicker(ends_at=2), 4).step(0)
    assert (reward, terminated) == (3.0, True)


def test_unknown_game_is_named():
    with pytest.raises(UserError, match=r"'pogn'.*pong"):
        AtariEnvs("pogn")


def test_dqn_2013_takes_the_last_frame_alone_and_crops():
    """Against the bare emulator: the resize to 110 x 84 of the fourth frame, its rows 18 to 101, no maximum of two."""
    envs = AtariEnvs("space_invaders", 1, seed=3, frame_skip=3, noop_max=0, preprocessing="dqn_2013")
    obs = envs.reset()
    bare = gymnasium.make(
        "ALE/SpaceInvaders-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=False
    )
    screen, _ = bare.reset(seed=3)
    rng, differs = np.random.default_rng(0), 0
    for _ in range(150):
        gray = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        assert (obs[0] == cv2.resize(gray, (84, 110), interpolation=cv2.INTER_AREA)[18:102]).all()
        action = int(rng.integers(envs.num_actions))
        obs = envs.step(np.array([action])).obs
        screens = [bare.step(action)[0] for _ in range(3)]
        screen = screens[-1]
        differs += (np.maximum(screens[-1], screens[-2]) != screen).any()
    assert differs > 50  # the maximum would have shown


@pytest.mark.parametrize("preprocessing", sorted(PREPROCESSING))
def test_a_filmed_game_is_the_same_game(preprocessing):
    """Frames, rewards and lives over several games of Seaquest, which flickers; and the film shows that game."""
    plain, filmed = (
        AtariEnvs("seaquest", 2, seed=1, preprocessing=preprocessing, keep_rgb=k) for k in (False, True)
    )
    rng, games = np.random.default_rng(0), 0
    assert (plain.reset() == filmed.reset()).all()
    for _ in range(700):
        actions = rng.integers(plain.num_actions, size=2)
        one, two = plain.step(actions), filmed.step(actions)
        assert (one.obs == two.obs).all()
        assert (one.rewards == two.rewards).all()
        assert (one.life_lost == two.life_lost).all()
        gray = np.stack([nature_frame(filmed.screen(env)) for env in range(2)]).astype(int)
        if preprocessing in (
            "ale",
            "nature",
        ):  # the maximum of gray is not the gray of the maximum, but near it
            assert np.abs(gray - one.obs).mean() < 1
        if one.done.any():
            games += 1
            assert (plain.reset_where(one.done) == filmed.reset_where(one.done)).all()
    assert games > 1
    assert filmed.screen(0).shape == (210, 160, 3)
