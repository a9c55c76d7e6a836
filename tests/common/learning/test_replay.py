"""Replay memory against a slow twin that keeps whole episodes in lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.learning.replay import Replay
from common.learning.replay_on_device import ReplayOnDevice

STACK = 4


class Slow:
    """Keeps every transition with its true stacks; a transition lives as long as all its real frames are in the window."""

    def __init__(self, window: int):
        self.window, self.written = window, 0
        self.episode: list[tuple[int, int]] = []  # (slot number, frame)
        self.transitions: dict[int, tuple] = {}

    def begin_episodes(self, frame: int) -> None:
        self.episode = [(self.written, frame)]
        self.written += 1

    def add(self, action: int, reward: float, terminal: bool, frame: int) -> None:
        slot = self.episode[-1][0]
        before = [f for _, f in self.episode[-STACK:]]
        self.episode.append((self.written, frame))
        after = [f for _, f in self.episode[-STACK:]]
        first = self.episode[max(len(self.episode) - 1 - STACK, 0)][0]
        pad = lambda frames: [0] * (STACK - len(frames)) + frames  # noqa: E731
        self.transitions[slot] = (pad(before), action, reward, terminal, pad(after), first)
        self.written += 1

    def alive(self) -> dict[int, tuple]:
        oldest = self.written - self.window
        return {slot: t for slot, t in self.transitions.items() if t[5] >= oldest}


events = st.lists(
    st.tuples(st.sampled_from(["step", "step", "step", "life", "over", "cap"]), st.integers(0, 5)),
    min_size=1,
    max_size=80,
)


def play(replay: Replay, twins: list[Slow], script: list, rng: np.random.Generator) -> None:
    n = len(twins)

    def frame(value: int) -> np.ndarray:
        return np.full((2, 2), value, np.uint8)

    values = rng.integers(1, 256, n)
    replay.begin_episodes(np.stack([frame(v) for v in values]))
    for twin, v in zip(twins, values, strict=True):
        twin.begin_episodes(int(v))
    for k, (event, action) in enumerate(script):
        values = rng.integers(1, 256, n)
        who = k % n  # the event happens to one environment, the others just step
        terminal = np.array([i == who and event in ("life", "over") for i in range(n)])
        done = np.array([i == who and event in ("over", "cap") for i in range(n)])
        actions = np.full(n, action)
        rewards = rng.integers(-1, 2, n).astype(np.float32)
        replay.add(actions, rewards, terminal, np.stack([frame(v) for v in values]))
        for i, twin in enumerate(twins):
            twin.add(action, float(rewards[i]), bool(terminal[i]), int(values[i]))
        if done.any():
            values = rng.integers(1, 256, n)
            replay.begin_episodes(np.stack([frame(v) for v in values]), done)
            for i in np.flatnonzero(done):
                twins[i].begin_episodes(int(values[i]))


@settings(max_examples=150, deadline=None)
@given(
    script=events,
    num_envs=st.integers(1, 3),
    window=st.integers(6, 30),
    slack=st.integers(0, 7),
    seed=st.integers(0, 99),
    copied=st.booleans(),
)
def test_same_transitions_as_the_slow_twin(script, num_envs, window, slack, seed, copied):
    """Stacks, zero planes, successors, masks and which transitions may be sampled, across episodes and the write head."""
    rng = np.random.default_rng(seed)
    replay = Replay(window * num_envs, (2, 2), num_envs=num_envs, stack=STACK, slack=slack)
    if copied:
        replay.on_device = ReplayOnDevice(replay, "cpu")  # what makes the batches on a GPU
    twins = [Slow(window) for _ in range(num_envs)]
    play(replay, twins, script, rng)
    for env, twin in enumerate(twins):
        alive = twin.alive()
        positions = np.arange(int(replay.written[env]))
        positions = positions[positions >= replay.written[env] - replay.slots]  # what is still stored at all
        may = replay.may_sample(np.full(len(positions), env), positions)
        assert set(positions[may].tolist()) == set(alive)
        if not alive:
            continue
        slots = np.array(sorted(alive))
        batch = replay.gather(np.stack([np.full(len(slots), env), slots % replay.slots], axis=1))
        for k, slot in enumerate(slots):
            before, action, reward, terminal, after, _ = alive[slot]
            assert batch.states[k, :, 0, 0].tolist() == before
            assert int(batch.actions[k]) == action
            assert float(batch.rewards[k]) == reward
            assert bool(batch.terminals[k]) == terminal
            if not terminal:
                assert batch.next_states[k, :, 0, 0].tolist() == after
    current = replay.current()
    for env, twin in enumerate(twins):
        frames = [f for _, f in twin.episode[-STACK:]]
        assert current[env, :, 0, 0].tolist() == [0] * (STACK - len(frames)) + frames


def test_draw_is_uniform_over_what_may_be_sampled():
    """Chi-square over 40 transitions; the critical value at p = 0.001 with 39 degrees of freedom is 72.1."""
    replay = Replay(44, (1,), num_envs=1, stack=STACK)
    replay.begin_episodes(np.ones((1, 1), np.uint8))
    for t in range(100):
        replay.add(np.array([0]), np.array([0.0]), np.array([False]), np.full((1, 1), t % 255, np.uint8))
    positions = np.arange(57, 101)
    alive = positions[replay.may_sample(np.zeros(44, int), positions)]
    assert len(alive) == 44 - 3 - 1  # three without a whole stack, one without a successor
    drawn = replay.draw(np.random.default_rng(0), 40_000)[:, 1]
    counts = np.array([(drawn == p % replay.slots).sum() for p in alive])
    assert counts.sum() == 40_000
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 72.1


def test_a_time_cap_keeps_its_true_successor():
    replay = Replay(20, (1,), stack=1)
    replay.begin_episodes(np.array([[10]], np.uint8))
    replay.add(np.array([1]), np.array([0.5]), np.array([False]), np.array([[11]], np.uint8))  # cut by a cap
    replay.begin_episodes(np.array([[99]], np.uint8), np.array([True]))
    replay.add(np.array([2]), np.array([0.0]), np.array([False]), np.array([[98]], np.uint8))
    batch = replay.gather(np.array([[0, 0]]))
    assert batch.next_states.flatten().tolist() == [11]
    assert not bool(batch.terminals[0])
    assert replay.may_sample(np.zeros(4, int), np.arange(4)).tolist() == [True, False, True, False]


def test_newest_are_the_latest_in_order():
    replay = Replay(50, (1,), stack=2)
    replay.begin_episodes(np.array([[0]], np.uint8))
    for t in range(1, 10):
        replay.add(np.array([t % 3]), np.array([t]), np.array([False]), np.array([[t]], np.uint8))
    assert replay.gather(replay.newest(4)).rewards.tolist() == [6, 7, 8, 9]


def test_newest_of_several_environments_that_wrote_unevenly():
    """Each environment gives its latest transitions, however many slots the episodes of the others took."""
    replay = Replay(400, (1,), num_envs=2, stack=1)
    replay.begin_episodes(np.zeros((2, 1), np.uint8))
    for t in range(60):
        replay.add(
            np.zeros(2, int), np.array([t, 100 + t]), np.array([True, False]), np.zeros((2, 1), np.uint8)
        )
        replay.begin_episodes(
            np.zeros((2, 1), np.uint8), np.array([True, False])
        )  # the first one plays episodes of one step
    assert sorted(replay.gather(replay.newest(6)).rewards.tolist()) == [58, 59, 156, 157, 158, 159]


@pytest.mark.parametrize("copied", [False, True])
def test_a_restored_memory_is_the_same(tmp_path, copied):
    rng = np.random.default_rng(3)
    script = [("step", 1), ("over", 2), ("step", 0)] * 30
    one = Replay(40, (2, 2), stack=STACK, slack=6, folder=tmp_path)
    play(one, [Slow(40)], script, rng)
    state = one.state_dict()
    assert "frames" not in state
    one.flush()
    two = Replay(40, (2, 2), stack=STACK, slack=6, folder=tmp_path)
    two.on_device = ReplayOnDevice(two, "cpu") if copied else None
    two.load_state_dict(state)
    a, b = one.sample(np.random.default_rng(1), 16), two.sample(np.random.default_rng(1), 16)
    assert (a.states == b.states).all()
    assert (a.indices == b.indices).all()


def test_slack_protects_what_a_checkpoint_refers_to(tmp_path):
    """Frames written after a checkpoint, no more than the slack, leave every transition of the checkpoint readable."""
    one = Replay(30, (1,), stack=2, slack=10, folder=tmp_path)
    one.begin_episodes(np.array([[1]], np.uint8))
    for t in range(100):
        one.add(np.array([0]), np.array([t]), np.array([False]), np.array([[t % 251]], np.uint8))
    state, before = one.state_dict(), one.sample(np.random.default_rng(0), 200).states.clone()
    for t in range(10):
        one.add(np.array([0]), np.array([t]), np.array([False]), np.array([[255 - t]], np.uint8))
    two = Replay(30, (1,), stack=2, slack=10, folder=tmp_path)
    two.load_state_dict(state)
    assert (two.sample(np.random.default_rng(0), 200).states == before).all()


def test_a_cut_frames_file_is_an_error_and_is_left_alone(tmp_path):
    one = Replay(30, (1,), stack=2, folder=tmp_path)
    one.begin_episodes(np.array([[1]], np.uint8))
    (tmp_path / "frames.bin").write_bytes(b"123")
    for _ in range(2):
        with pytest.raises(UserError, match=r"has 3 bytes, the replay memory needs 30.*--fresh"):
            Replay(30, (1,), stack=2, folder=tmp_path)
    assert (tmp_path / "frames.bin").read_bytes() == b"123"


def test_no_space_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"needs 0\.01 GB.*0\.00 GB are free"):
        Replay(1000, (84, 84), stack=4, folder=tmp_path)
    assert not (tmp_path / "frames.bin").exists()


def test_a_million_transitions_take_seven_gigabytes():
    replay = Replay(2000, (84, 84), num_envs=2, slack=100)
    assert replay.frames.nbytes / 2100 * 1_000_000 == 7_056_000_000


def test_an_empty_memory_says_so():
    replay = Replay(30, (1,), stack=2)
    replay.begin_episodes(np.array([[1]], np.uint8))
    with pytest.raises(RuntimeError, match="no transitions"):
        replay.draw(np.random.default_rng(0), 4)


# --- several steps at once ---


def expected_steps(twin: Slow, position: int, n: int, outcomes: dict, states: dict) -> tuple | None:
    """Rewards, whether a terminal ended them, and the successor's stack; None while the n steps are not over. By walking on.

    outcomes: slot -> (reward, terminal), for the slots that have a transition; states: slot -> stack of frames.
    """
    rewards = []
    for slot in range(position, position + n):
        if slot == twin.written - 1:
            return None
        if slot not in outcomes:  # the last observation of an episode that a cap ended
            return rewards, False, states[slot]
        reward, terminal = outcomes[slot]
        rewards.append(reward)
        if terminal:
            return rewards, True, states[slot + 1]
    return rewards, False, states[position + n]


@settings(max_examples=100, deadline=None)
@given(
    script=st.lists(
        st.tuples(
            st.sampled_from(["step", "step", "step", "step", "life", "over", "cap"]), st.integers(0, 5)
        ),
        min_size=20,
        max_size=80,
    ),
    num_envs=st.integers(1, 3),
    window=st.integers(9, 30),
    slack=st.integers(0, 7),
    n=st.integers(1, 4),
    seed=st.integers(0, 99),
    copied=st.booleans(),
)
def test_n_steps_stop_at_an_end_and_never_cross_it(script, num_envs, window, slack, n, seed, copied):
    """Rewards, steps taken, terminal, successor and which may be sampled, across episodes, caps and the write head."""
    rng = np.random.default_rng(seed)
    replay = Replay(window * num_envs, (2, 2), num_envs=num_envs, stack=STACK, slack=slack, n_step=n)
    if copied:
        replay.on_device = ReplayOnDevice(replay, "cpu")
    twins = [Slow(window) for _ in range(num_envs)]
    outcomes: list[dict] = [{} for _ in twins]
    states: list[dict] = [{} for _ in twins]
    for twin, out, seen in zip(twins, outcomes, states, strict=True):
        twin.begin_episodes, twin.add = remember(twin, out, seen)
    play(replay, twins, script, rng)
    for env, twin in enumerate(twins):
        alive = twin.alive()  # whole, as far as one step goes
        wanted = {p: expected_steps(twin, p, n, outcomes[env], states[env]) for p in alive}
        wanted = {p: w for p, w in wanted.items() if w is not None}
        positions = np.arange(max(int(replay.written[env]) - replay.slots, 0), int(replay.written[env]))
        which = np.full(len(positions), env)
        assert set(positions[replay.may_sample(which, positions)].tolist()) == set(wanted)
        known = replay.outcome_known(which, positions)
        assert (np.diff(known.astype(int)) <= 0).all()  # if one is known, so are all before it
        if not wanted:
            continue
        slots = np.array(sorted(wanted))
        batch = replay.gather(np.stack([np.full(len(slots), env), slots % replay.slots], axis=1))
        for k, slot in enumerate(slots):
            rewards, terminal, after = wanted[slot]
            assert batch.states[k, :, 0, 0].tolist() == alive[slot][0]
            assert int(batch.actions[k]) == alive[slot][1]
            assert batch.rewards[k].tolist() == rewards + [0] * (n - len(rewards))
            assert int(batch.steps[k]) == len(rewards)
            assert bool(batch.terminals[k]) == terminal
            if not terminal:
                assert batch.next_states[k, :, 0, 0].tolist() == after


def remember(twin: Slow, outcomes: dict, states: dict):
    """`start` and `add` of a twin that note each slot's outcome and stack as well."""
    plain_start, plain_add = twin.begin_episodes, twin.add

    def stack() -> list[int]:
        frames = [f for _, f in twin.episode[-STACK:]]
        return [0] * (STACK - len(frames)) + frames

    def begin_episodes(frame: int) -> None:
        plain_start(frame)
        states[twin.episode[-1][0]] = stack()

    def add(action: int, reward: float, terminal: bool, frame: int) -> None:
        outcomes[twin.episode[-1][0]] = (reward, terminal)
        plain_add(action, reward, terminal, frame)
        states[twin.episode[-1][0]] = stack()

    return begin_episodes, add


def test_one_of_n_steps_is_a_plain_transition():
    plain, steps = Replay(40, (2, 2), stack=STACK), Replay(40, (2, 2), stack=STACK, n_step=1)
    for replay in (plain, steps):
        play(
            replay,
            [Slow(40)],
            [("step", 1), ("cap", 2), ("life", 0), ("over", 3)] * 12,
            np.random.default_rng(4),
        )
    a, b = plain.sample(np.random.default_rng(0), 64), steps.sample(np.random.default_rng(0), 64)
    assert (a.indices == b.indices).all()
    assert (a.rewards == b.rewards[:, 0]).all()
    assert b.steps.tolist() == [1] * 64
    for name in ("states", "actions", "next_states", "terminals"):
        assert (getattr(a, name) == getattr(b, name)).all(), name
    assert a.steps is None


def test_actions_that_are_vectors_of_floats():
    """Each comes back beside its own state, in both places that make batches; a checkpoint's memory is the same one."""
    replay = Replay(12, (3,), np.float32, num_envs=2, stack=1, action_shape=(2,))
    rng = np.random.default_rng(0)
    replay.begin_episodes(np.zeros((2, 3)))
    known = {}
    for t in range(1, 9):  # the ring wraps
        obs, actions = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(2, 2)).astype(np.float32)
        for env in range(2):
            known[replay.current()[env].numpy().tobytes(), env] = actions[env], obs[env], t
        replay.add(actions, np.full(2, t), np.zeros(2, bool), obs)
    there = ReplayOnDevice(replay, "cpu")
    there.load()
    indices = replay.draw(np.random.default_rng(1), 64)
    for batch in (replay.gather(indices), there.gather(there.flat_indices(indices))):
        assert (batch.states.shape, batch.actions.shape, batch.actions.dtype) == (
            (64, 1, 3),
            (64, 2),
            torch.float32,
        )
        for k, (env, _) in enumerate(indices):
            action, follower, t = known[batch.states[k].numpy().tobytes(), env]
            np.testing.assert_array_equal(batch.actions[k], action)
            np.testing.assert_array_equal(batch.next_states[k, 0], follower)
            assert batch.rewards[k] == t
    again = Replay(12, (3,), np.float32, num_envs=2, stack=1, action_shape=(2,))
    assert again.digest() != replay.digest()
    again.load_state_dict(replay.state_dict())
    assert again.digest() == replay.digest()
    with pytest.raises(ValueError, match="replay actions is float32"):
        Replay(12, (3,), np.float32, num_envs=2, stack=1).load_state_dict(replay.state_dict())
