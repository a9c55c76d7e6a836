"""The sum tree, the heap and their place on the replay's slots against slow and exact counterparts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.learning import priorities as module
from common.learning.priorities import Priorities, Proportional, RankBased, SumTree
from common.learning.replay import Replay

KINDS = ("proportional", "rank")


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def filled(steps: int = 60, num_envs: int = 1, n_step: int | None = None, **options) -> Replay:
    replay = Replay(
        options.pop("capacity", 200 * num_envs), (1,), num_envs=num_envs, stack=4, n_step=n_step, **options
    )
    replay.begin_episodes(np.zeros((num_envs, 1), np.uint8))
    for _ in range(steps):
        step(replay)
    return replay


def step(replay: Replay, terminal: bool = False) -> None:
    n = replay.num_envs
    replay.add(np.zeros(n, int), np.zeros(n), np.full(n, terminal), np.zeros((n, 1), np.uint8))


# --- the sum tree ---


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40_000), st.integers(0, 2**31), st.integers(1, 12))
def test_sums_are_those_of_the_leaves_and_find_agrees_with_cumulative_sums(leaves, seed, rounds):
    rng = np.random.default_rng(seed)
    tree, masses = SumTree(leaves), np.zeros(leaves)
    for _ in range(rounds):
        which = rng.integers(leaves, size=rng.integers(1, 50))
        values = np.where(rng.random(len(which)) < 0.3, 0.0, rng.exponential(size=len(which)))
        tree.set(which, values)
        for leaf, value in zip(which, values, strict=True):
            masses[leaf] = value
    assert (tree.masses == masses).all()
    assert tree.total == pytest.approx(masses.sum(), rel=1e-12)
    sums = [level.copy() for level in tree._levels]
    tree.rebuild()
    assert all(
        (a == b).all() for a, b in zip(sums, tree._levels, strict=True)
    )  # bit for bit: a resumed run is the same
    if masses.sum() > 0:
        points = rng.random(64) * tree.total
        found, exact = tree.find(points), np.searchsorted(masses.cumsum(), points, side="right")
        edge = np.abs(masses.cumsum()[:, None] - points).min(axis=0) < 1e-9 * tree.total
        assert (found[~edge] == exact[~edge]).all()
        assert (masses[found] > 0).all()


def test_the_ends_of_the_range_hit_leaves_with_mass():
    tree = SumTree(1000)
    tree.set(np.array([3, 500, 777]), np.array([1e-300, 1.0, 1e-9]))
    total = tree.total
    assert tree.find(np.array([0.0, 1e-300, total, np.nextafter(total, np.inf)])).tolist() == [
        3,
        500,
        777,
        777,
    ]


def test_no_drift_after_many_updates():
    """Large masses come and go a thousand times; sums kept by differences would be off by far more."""
    rng, tree = np.random.default_rng(0), SumTree(300)
    for _ in range(1000):
        which = rng.integers(300, size=32)
        tree.set(which, 10.0 ** rng.uniform(-9, 9, size=32))
    tree.set(np.arange(300), 1e-6)
    assert tree.total == pytest.approx(300e-6, rel=1e-12)


def test_a_leaf_given_twice_has_the_last_mass():
    tree = SumTree(10)
    tree.set(np.array([4, 4, 4]), np.array([1.0, 2.0, 0.5]))
    assert tree.total == 0.5


# --- probabilities ---


def test_proportional_probabilities():
    """Exponent 1, priorities 1 to 4: .1, .2, .3, .4; exponent 2: squares. The exponent is applied once."""
    for exponent in (1.0, 2.0):
        order = Proportional(4, exponent)
        order.set(np.arange(4), np.array([1.0, 2.0, 3.0, 4.0]))
        leaves, probabilities = order.draw(np.random.default_rng(0), 40_000)
        expected = np.arange(1, 5) ** exponent / (np.arange(1, 5) ** exponent).sum()
        np.testing.assert_allclose(probabilities, expected[leaves], rtol=1e-12)
        assert (
            np.abs(np.bincount(leaves, minlength=4) / 40_000 - expected).max() < 1e-4
        )  # strata: nearly exact


def test_rank_probabilities():
    """Exponent 1, four transitions: 1, 1/2, 1/3, 1/4 of their sum, by the rank of the priority and not its size."""
    order = RankBased(4, 1.0)
    order.set(np.array([2, 0, 3, 1]), np.array([0.5, 100.0, 0.1, 7.0]))
    order.sort()
    leaves, probabilities = order.draw(np.random.default_rng(0), 40_000)
    expected = np.array([12, 6, 4, 3]) / 25  # leaves 0, 1, 2, 3 have ranks 1, 2, 3, 4
    np.testing.assert_allclose(probabilities, expected[leaves], rtol=1e-12)
    assert expected.tolist() == pytest.approx([0.48, 0.24, 0.16, 0.12])
    assert np.abs(np.bincount(leaves, minlength=4) / 40_000 - expected).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_one_draw_from_each_range_of_equal_mass(kind):
    """A batch of 10 from 100 equal transitions has one of each ten, whatever the generator says."""
    order = (Proportional if kind == "proportional" else RankBased)(100, 0.0)
    order.set(np.arange(100), np.ones(100))
    for seed in range(50):
        leaves, _ = order.draw(np.random.default_rng(seed), 10)
        assert (leaves // 10).tolist() == list(range(10))


@pytest.mark.parametrize("kind", KINDS)
def test_exponent_zero_is_uniform(kind):
    """Chi-square over 57 transitions; the critical value at p = 0.001 with 56 degrees of freedom is 94.5."""
    replay = filled(57)
    priorities, rng = Priorities(replay, kind, exponent=0.0), np.random.default_rng(0)
    for _ in range(30):
        indices, _ = priorities.draw(rng, 8)
        priorities.update(indices, rng.exponential(size=8) * (rng.random(8) < 0.5))
    assert len(priorities) == 57
    # One at a time, so that no stratum helps
    drawn = np.concatenate([priorities.draw(rng, 1)[0][:, 1] for _ in range(5_000)])
    assert chi_square(np.bincount(drawn, minlength=57), np.full(57, 1 / 57)) < 94.5
    np.testing.assert_allclose(priorities.draw(rng, 5)[1], 1 / 57, rtol=1e-12)


@pytest.mark.parametrize(("kind", "exponent"), [("proportional", 0.6), ("rank", 0.7)])
def test_drawn_as_often_as_said(kind, exponent):
    """Single draws against the stated probabilities; 39 degrees of freedom, critical at p = 0.001: 72.1."""
    replay = filled(40)
    priorities, rng = Priorities(replay, kind, exponent=exponent), np.random.default_rng(1)
    assert len(priorities) == 40
    priorities.update(np.stack([np.zeros(40, int), np.arange(40)], axis=1), np.arange(40) + 1.0)
    draws = [priorities.draw(rng, 1) for _ in range(8_000)]
    slots = np.array([int(i[0, 1]) for i, _ in draws])
    said = np.zeros(40)
    said[slots] = [float(p[0]) for _, p in draws]
    assert said.sum() == pytest.approx(1, abs=1e-9)  # every one was drawn at least once
    assert chi_square(np.bincount(slots, minlength=40), said) < 72.1
    assert said[39] == said.max()  # the largest priority


# --- the heap ---


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60))
def test_the_heap_stays_a_heap_with_every_leaf_in_its_place(seed, operations):
    rng, order, keys = np.random.default_rng(seed), RankBased(64, 0.7), {}
    for _ in range(operations):
        which = np.unique(rng.integers(64, size=5))
        if rng.random() < 0.4 and keys:
            which = np.array([leaf for leaf in which if leaf in keys], np.int64)
            order.remove(which)
            for leaf in which:
                del keys[int(leaf)]
        else:
            values = rng.integers(0, 8, len(which)).astype(float)  # many ties
            order.set(which, values)
            keys.update(zip(which.tolist(), values.tolist(), strict=True))
        n = order._count
        assert n == len(keys)
        assert sorted(order._leaf[:n]) == sorted(keys)
        assert all(order._key[k] == keys[order._leaf[k]] for k in range(n))
        assert all(order._place[order._leaf[k]] == k for k in range(n))
        assert all(order._place[leaf] == -1 for leaf in range(64) if leaf not in keys)
        assert all(order._key[(k - 1) // 2] >= order._key[k] for k in range(1, n))
    order.sort()
    assert order._key[: order._count].tolist() == sorted(keys.values(), reverse=True)
    assert all(order._place[order._leaf[k]] == k for k in range(order._count))


def test_the_heap_is_sorted_after_its_period(monkeypatch):
    monkeypatch.setattr(module, "SORT_PERIOD", 100)
    replay = filled(80)
    priorities, rng = Priorities(replay, "rank", exponent=0.7), np.random.default_rng(0)
    for _ in range(40):
        indices, _ = priorities.draw(rng, 16)
        priorities.update(indices, rng.exponential(size=16))
    ordered = lambda: bool((np.diff(priorities.order._key[: len(priorities)]) <= 0).all())  # noqa: E731
    assert not ordered()
    for _ in range(20):  # slot 100 is written
        step(replay)
    assert len(priorities) == 100
    assert ordered()


# --- on the replay's slots ---


def may_be_drawn(replay: Replay) -> set[tuple[int, int]]:
    """(environment, slot) of everything the memory allows, asked position by position."""
    found = set()
    for env in range(replay.num_envs):
        for position in range(max(int(replay.written[env]) - replay.slots, 0), int(replay.written[env])):
            if replay.may_sample(np.array([env]), np.array([position]))[0]:
                found.add((env, position % replay.slots))
    return found


events = st.lists(
    st.sampled_from(["step"] * 12 + ["life", "over", "cap", "draw", "draw", "lap"]), min_size=40, max_size=120
)


@settings(max_examples=60, deadline=None)
@given(
    script=events,
    kind=st.sampled_from(KINDS),
    num_envs=st.integers(1, 3),
    window=st.integers(8, 24),
    slack=st.integers(0, 9),
    n_step=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 999),
)
def test_mass_lies_exactly_on_what_may_be_sampled(script, kind, num_envs, window, slack, n_step, seed):
    """Through episodes, caps, the write head, slack, several laps between two looks, and updates in between."""
    rng = np.random.default_rng(seed)
    replay = filled(0, num_envs, n_step, capacity=window * num_envs, slack=slack * num_envs)
    priorities = Priorities(replay, kind, exponent=0.6)
    known: dict[tuple[int, int, int], float] = {}  # (environment, slot, lap) -> priority
    largest = 1.0
    for k, event in enumerate([*script, "draw"]):
        who = np.arange(num_envs) == k % num_envs
        for _ in range({"draw": 0, "lap": 3 * window + 7}.get(event, 1)):
            terminal = who & (event in ("life", "over"))
            replay.add(
                np.zeros(num_envs, int), np.zeros(num_envs), terminal, np.zeros((num_envs, 1), np.uint8)
            )
            if event in ("over", "cap"):
                replay.begin_episodes(np.zeros((num_envs, 1), np.uint8), who)
        if event != "draw":
            continue
        allowed = may_be_drawn(replay)
        assert len(priorities) == len(allowed)
        inside = {tuple(divmod(leaf, replay.slots)) for leaf in np.flatnonzero(priorities._inside).tolist()}
        assert inside == allowed
        lap = lambda e, s: (int(replay.written[e]) - 1 - s) // replay.slots  # noqa: E731
        alive = {(e, s, lap(e, s)) for e, s in allowed}
        known = {
            t: known.get(t, largest) for t in alive
        }  # what is new enters with the largest priority there has been
        if kind == "proportional":
            masses = priorities.order.tree.masses
            assert set(np.flatnonzero(masses).tolist()) == {e * replay.slots + s for e, s in allowed}
            assert all(
                abs(masses[e * replay.slots + s] / known[e, s, lp] ** 0.6 - 1) < 1e-12 for e, s, lp in alive
            )
        else:
            order = priorities.order
            assert all(
                order._key[order._place[e * replay.slots + s]] == known[e, s, lp] for e, s, lp in alive
            )
        if not allowed:
            with pytest.raises(RuntimeError, match="no transitions"):
                priorities.draw(rng, 2)
            continue
        indices, probabilities = priorities.draw(rng, 6)
        assert {tuple(i) for i in indices.tolist()} <= allowed
        assert (probabilities > 0).all()
        values = rng.exponential(size=6) * 2 + 1e-6
        priorities.update(indices, values)
        for (e, s), value in zip(indices.tolist(), values.tolist(), strict=True):
            known[e, s, lap(e, s)] = value
        largest = max(largest, values.max())
        assert priorities.max_priority == largest


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_state_draws_the_same(kind):
    replay = filled(150, 2, slack=20)
    one, rng = Priorities(replay, kind, exponent=0.6), np.random.default_rng(0)
    for _ in range(50):
        indices, _ = one.draw(rng, 16)
        one.update(indices, rng.exponential(size=16))
        step(replay)
    step(replay)  # not looked at yet when the state is taken
    state = one.state_dict()
    two = Priorities(replay, kind, exponent=0.6)
    two.load_state_dict(state)
    a, b = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(60):
        (indices, p), (indices2, p2) = one.draw(a, 16), two.draw(b, 16)
        assert (indices == indices2).all()
        assert (p == p2).all()
        one.update(indices, (values := rng.exponential(size=16)))
        two.update(indices2, values)
        step(replay)
    for x, y in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        if isinstance(x, dict):
            assert all((x[key] == y[key]).all() for key in x)
        else:
            assert np.array_equal(x, y)


def test_a_state_of_another_size_is_refused():
    state = Priorities(filled(20), exponent=0.6).state_dict()
    with pytest.raises(ValueError, match="of 200 slots, this run has 300"):
        Priorities(filled(20, capacity=300), exponent=0.6).load_state_dict(state)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_priority_that_is_no_finite_number_is_an_error(bad):
    priorities = Priorities(filled(20), exponent=0.6)
    indices, _ = priorities.draw(np.random.default_rng(0), 2)
    with pytest.raises(UserError, match=r"a priority became .* smaller learning rate"):
        priorities.update(indices, np.array([1.0, bad]))


def test_a_negative_exponent_is_an_error():
    with pytest.raises(UserError, match=r"exponent of -0\.5"):
        Priorities(filled(20), exponent=-0.5)
