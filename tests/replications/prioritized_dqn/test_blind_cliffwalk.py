"""The problem by hand, the update against dense linear algebra, and each way of choosing against its distribution."""

import numpy as np
import pytest
from scipy import stats

from common.errors import UserError
from replications.prioritized_dqn import blind_cliffwalk as b

CONFIG = b.Config()


def rng(seed=1):
    return np.random.default_rng(seed)


def test_memory_of_three_states_by_hand():
    states, right = b.memory(3, rng())
    assert len(states) == 14  # 2^4 - 2
    counts = {(s, r): int(((states == s) & (right == r)).sum()) for s in range(3) for r in (0, 1)}
    assert counts == {(0, 0): 4, (0, 1): 4, (1, 0): 2, (1, 1): 2, (2, 0): 1, (2, 1): 1}  # one success
    other, _ = b.memory(3, rng(2))
    assert states.tolist() != other.tolist()  # in random order


def test_true_values_solve_the_problem():
    n, values = 5, b.true_values(5)
    for state in range(n):
        follow = 1.0 if state == n - 1 else (1 - 1 / n) * values[state + 1].max()
        assert values[state].tolist() == [0.0, pytest.approx(follow)]


class Dense:
    """The same values as weights times features, in NumPy."""

    def __init__(self, values: b.Values):
        n, self.n = values.n, values.n
        self.right, self.linear = values.right, values.linear
        self.weights = np.zeros((2, n + 1))
        self.weights[:, :n] = np.array(values.q).reshape(n, 2).T
        self.weights[:, n] = values.bias
        self.truth = b.true_values(n)

    def features(self, state):
        return np.append(np.eye(self.n)[state], 1.0 if self.linear else 0.0)

    def q(self, state, right):
        return self.weights[self.right[state] if right else 1 - self.right[state]] @ self.features(state)

    def update(self, state, right):
        if not right:
            target = 0.0
        elif state == self.n - 1:
            target = 1.0
        else:
            target = (1 - 1 / self.n) * max(self.q(state + 1, 0), self.q(state + 1, 1))
        error = target - self.q(state, right)
        self.weights[self.right[state] if right else 1 - self.right[state]] += (
            0.25 * error * self.features(state)
        )
        return error

    def squares(self):
        return sum((self.q(s, r) - self.truth[s, r]) ** 2 for s in range(self.n) for r in (0, 1))


@pytest.mark.parametrize("kind", ["tabular", "linear"])
def test_update_and_running_error_against_dense_algebra(kind):
    values, draws = b.Values(6, kind, CONFIG, rng()), rng(3)
    dense = Dense(values)
    for _ in range(300):
        state, right = int(draws.integers(6)), int(draws.integers(2))
        ahead = values.loss_after(state, right)
        assert values.update(state, right) == pytest.approx(dense.update(state, right), abs=1e-12)
        assert sum(values.squares) == pytest.approx(dense.squares(), abs=1e-12)
        assert ahead == pytest.approx(dense.squares(), abs=1e-12)


def test_labels_of_the_right_action_alternate_so_that_the_shared_weight_misleads():
    values = b.Values(4, "linear", CONFIG, rng())
    assert values.right == [0, 1, 0, 1]
    before = [values.error(1, 0), values.error(1, 1)]
    values.update(0, 0)  # the wrong action of state 0 has the label of the right one of state 1
    assert values.error(1, 0) == before[0]
    assert values.error(1, 1) != before[1]


def test_solved_is_the_mean_over_all_action_values():
    values = b.Values(2, "tabular", CONFIG, rng())
    values.q = [t for t in values.truth]
    values.q[0] += (4 * 0.00099) ** 0.5
    values.recount()
    assert values.solved()
    values.q[0] += 0.001
    values.recount()
    assert not values.solved()


def replay(choice, errors: dict[int, float], times: int) -> list[int]:
    """The indices that come, each answered with its error."""
    found = [next(choice)]
    for _ in range(times - 1):
        found.append(choice.send(errors[found[-1]]))
    return found


def test_greedy_sees_everything_once_in_order_and_then_the_largest_error():
    assert replay(b.greedy(5, rng()), {0: 0.1, 1: 0.9, 2: -0.95, 3: 0.2, 4: 0.3}, 8) == [
        0,
        1,
        2,
        3,
        4,
        2,
        2,
        2,
    ]


def frequencies(found: list[int], size: int) -> np.ndarray:
    return np.bincount(found, minlength=size)


def test_rank_based_draws_by_a_power_of_the_rank():
    # Errors that never change: after a while the heap is sorted enough to hold the largest at its root
    size, errors = 4, {0: 0.1, 1: 0.8, 2: 0.4, 3: 0.2}
    found = replay(b.rank_based(size, rng(), 1.0), errors, 20_000)[2000:]
    share = frequencies(found, size) / len(found)
    assert share[1] == pytest.approx(0.48, abs=0.015)  # 1 / (1 + 1/2 + 1/3 + 1/4)
    assert share[0] < share[2]
    uniform = frequencies(replay(b.rank_based(8, rng(), 0.0), dict.fromkeys(range(8), 0.5), 16_000), 8)
    assert stats.chisquare(uniform).pvalue > 0.001


def test_rank_based_keeps_a_heap_and_loses_nothing():
    size, draws = 37, rng(5)
    choice = b.rank_based(size, rng(), 0.7)
    next(choice)
    for _ in range(2000):
        choice.send(float(draws.normal()))
        heap = choice.gi_frame.f_locals
        priorities = heap["priorities"]
        assert all(priorities[(k - 1) // 2] >= priorities[k] for k in range(1, size))
    assert sorted(heap["indices"]) == list(range(size))


def test_proportional_draws_by_a_power_of_the_error():
    errors = {0: 1.0, 1: -2.0, 2: 3.0, 3: 4.0, 4: 0.0}
    found = replay(b.proportional(5, rng(), 1.0, 0.0), errors, 40_000)[4000:]
    assert found.count(4) == 0
    assert (
        stats.chisquare(frequencies(found, 5)[:4], len(found) * np.array([0.1, 0.2, 0.3, 0.4])).pvalue > 0.001
    )
    halved = replay(b.proportional(2, rng(), 0.5, 0.0), {0: 1.0, 1: 4.0}, 20_000)[2000:]
    assert halved.count(1) / len(halved) == pytest.approx(2 / 3, abs=0.015)


def test_uniform_is_uniform():
    assert (
        stats.chisquare(
            frequencies(replay(b.uniform(6, rng()), dict.fromkeys(range(6), 9.0), 12_000), 6)
        ).pvalue
        > 0.001
    )


def test_the_oracle_takes_the_best_and_never_more_than_the_others():
    values = b.Values(3, "tabular", CONFIG, rng())
    pairs = [(s, r) for s in range(3) for r in (0, 1)]
    losses = {pair: values.loss_after(*pair) for pair in pairs}
    before = sum(values.squares)
    with pytest.raises(UserError, match="1 updates of the oracle with 3 states"):
        b.updates_of_oracle(values, 1)
    assert sum(values.squares) == pytest.approx(min(losses.values()))
    assert sum(values.squares) < before


def test_the_order_of_figure_2_at_ten_states():
    config = b.Config(fewest_states=10, most_states=10)
    counts = {(figure, name): y for figure, name, _, y in b.experiment(config, 101).points}
    t, li = "figure_2_tabular", "figure_2_linear"
    assert counts[t, "oracle"] < counts[t, "greedy"] < counts[t, "uniform"] / 2
    assert counts[li, "oracle"] < min(counts[li, "rank-based"], counts[li, "proportional"])
    assert max(counts[li, "rank-based"], counts[li, "proportional"]) < counts[li, "uniform"] / 2
    assert counts[t, "greedy"] >= 2**11 - 2  # everything was seen once


def test_measures():
    counts = {("tabular", "uniform", n): 3 * 2**n for n in (2, 3, 4)}
    counts |= {("tabular", "oracle", n): 3 * n for n in (2, 3, 4)}
    found = b.measures(counts, b.Config(most_states=4))
    assert found["tabular_uniform_updates"] == 48
    assert found["tabular_uniform_doublings_a_state"] == pytest.approx(1.0)
    assert found["tabular_oracle_speedup"] == 4.0
    # ratios 2, 8/3, 4: half a doubling a state, (log2 4 - log2 2) / 2
    assert found["tabular_oracle_speedup_doublings_a_state"] == pytest.approx(0.5)


def test_same_seed_same_counts_and_bad_sizes():
    config = b.Config(most_states=5)
    assert b.experiment(config, 3).points == b.experiment(config, 3).points
    assert b.experiment(config, 3).points != b.experiment(config, 4).points
    for bad in ({"most_states": 30}, {"fewest_states": 1}, {"fewest_states": 9, "most_states": 8}):
        with pytest.raises(UserError, match="allowed is 2 up to 20"):
            b.experiment(b.Config(**bad), 1)
    with pytest.raises(UserError, match="not learned after 10 updates"):
        b.experiment(b.Config(most_states=4, most_updates=10), 1)
