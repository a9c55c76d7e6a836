"""Q-learning's tasks with claims: rules by hand, exact limits, counterexamples to known mistakes, small runs."""

import numpy as np
import pytest

from common.errors import UserError
from replications.q_learning import baird, cliff_walking, convergence, exact, maximization_bias

# --- dynamic programming ---


@pytest.mark.parametrize(
    ("env_id", "value", "earned", "steps"),
    [
        ("FrozenLake-v1", 0.542026, 0.74016, 100),
        ("Taxi-v4", 6.3275, 7.93, 200),
        ("CliffWalking-v1", -12.248, -13.0, 100),
    ],
)
def test_optima_of_gymnasium(env_id, value, earned, steps):
    model = exact.gym_model(env_id)
    q = exact.value_iteration(model, 0.99)
    assert model.starts @ q.max(axis=1) == pytest.approx(value, abs=5e-4)
    assert exact.limited_return(model, exact.greedy(q), steps) == pytest.approx(earned, abs=5e-5)


def test_random_play_of_gymnasium():
    for env_id, actions, steps, earned in (("FrozenLake-v1", 4, 100, 0.01394), ("Taxi-v4", 6, 200, -771.09)):
        model = exact.gym_model(env_id)
        anything = np.full(model.rewards.shape, 1 / actions)
        assert exact.limited_return(model, anything, steps) == pytest.approx(earned, rel=1e-3)


def test_cliff_walking_is_gymnasiums():
    """Our own table, but for the start from which an episode goes on, is that of CliffWalking-v1."""
    ours, theirs = cliff_walking.model(), exact.gym_model("CliffWalking-v1")
    reached = np.ones(48, bool)
    reached[37:48] = False  # the cliff and the goal
    assert (ours.rewards[reached] == theirs.rewards[reached]).all()
    assert (ours.transitions[reached] == theirs.transitions[reached]).all()
    assert (ours.starts == theirs.starts).all()


def test_greedy_shares_ties_and_soft_explores():
    policy = exact.greedy(np.array([[1.0, 3.0, 3.0, 0.0]]))
    assert policy.tolist() == [[0, 0.5, 0.5, 0]]
    assert exact.soft(policy, 0.4)[0] == pytest.approx([0.1, 0.4, 0.4, 0.1])


# --- cliff walking ---


def test_limits_are_exact():
    found = cliff_walking.limits(0.1)
    assert found["Q-learning"] == pytest.approx(-50.80, abs=0.005)
    assert found["Expected Sarsa"] == pytest.approx(-20.71, abs=0.005)


def test_what_stands_for_the_next_state():
    values, action = np.array([[1.0, 4.0, 0.0, 3.0]]), np.array([3])
    assert cliff_walking.next_value("Sarsa", values, action, 0.2) == pytest.approx([3])
    assert cliff_walking.next_value("Q-learning", values, action, 0.2) == pytest.approx([4])
    assert cliff_walking.next_value("Expected Sarsa", values, action, 0.2) == pytest.approx(
        [0.8 * 4 + 0.2 * 2]
    )


def test_the_cliff_costs_100_and_leads_to_the_start():
    next_state, reward, ends = cliff_walking.world()
    assert (next_state[36, 1], reward[36, 1]) == (36, -100)
    assert (next_state[25, 2], reward[25, 2]) == (36, -100)
    assert (next_state[35, 2], reward[35, 2], ends[35, 2]) == (47, -1, True)
    assert (next_state[0, 0], next_state[11, 1]) == (0, 11)
    assert ends[:37].sum() == 1  # of the states that a walk can be in


@pytest.mark.parametrize("rule", cliff_walking.RULES)
def test_returns_and_what_is_never_learned(rule):
    """No episode is shorter than the best way, and nothing is learned of the cliff and the goal, where no action is taken."""
    returns, q = cliff_walking.learn(rule, np.array([0.5, 1.0]), 3, 0.1, np.random.default_rng(1))
    assert returns.shape == (2, 3)
    assert (returns <= -13).all()
    assert (q[:, 47] == 0).all()
    assert (q[:, 37:47] == 0).all()
    assert (q <= 0).all()


def test_sarsa_keeps_to_the_action_that_it_learned_from(monkeypatch):
    """The value of the next action that enters the target is that of the action taken."""
    seen = []
    real = cliff_walking.next_value

    def spy(rule, values, actions, epsilon):
        seen.append(int(actions[0]))
        return real(rule, values, actions, epsilon)

    taken = []

    next_state, reward, ends = cliff_walking.world()
    monkeypatch.setattr(cliff_walking, "next_value", spy)
    monkeypatch.setattr(cliff_walking, "world", lambda: (Recorded(next_state, taken), reward, ends))
    cliff_walking.learn("Sarsa", np.array([0.5]), 1, 0.3, np.random.default_rng(3))
    assert len(seen) > 12
    assert taken[1:] == seen[: len(taken) - 1]
    seen.clear(), taken.clear()
    cliff_walking.learn("Q-learning", np.array([0.5]), 1, 0.3, np.random.default_rng(3))
    assert taken[1:] != seen[: len(taken) - 1]


class Recorded:
    """An array that notes the action of each look-up."""

    def __init__(self, array, taken):
        self.array, self.taken = array, taken

    def __getitem__(self, at):
        self.taken.append(int(at[1][0]))
        return self.array[at]


def test_q_learning_finds_the_shortest_way_and_sarsa_the_safer_return():
    rng = np.random.default_rng(2)
    sarsa, _ = cliff_walking.learn("Sarsa", np.full(6, 0.5), 160, 0.1, rng)
    q_learning, q = cliff_walking.learn("Q-learning", np.full(6, 0.5), 160, 0.1, rng)
    assert (cliff_walking.greedy_return(q, rng) == -13).all()
    assert sarsa[:, 100:].mean() > q_learning[:, 100:].mean() + 10


def test_greedy_return_of_a_table_that_goes_round_in_circles():
    q = np.zeros((1, 48, 4))
    q[:, :, 0] = 1  # always up
    assert cliff_walking.greedy_return(q, np.random.default_rng(1))[0] == -np.inf


# --- maximization bias ---


def test_double_target_by_hand():
    """Q1 = (0, 1) chooses the second action, Q2 = (2, -1) says -1."""
    first, second = np.array([[0.0, 1.0]]), np.array([[2.0, -1.0]])
    assert maximization_bias.double_target(first, second, np.random.default_rng(1)) == pytest.approx([-1])


def test_both_begin_at_half_and_q_learning_is_drawn_to_the_left():
    config = maximization_bias.Config(episodes=100)
    shares = [
        maximization_bias.share_left(double, 10, 2000, config, np.random.default_rng(1))
        for double in (False, True)
    ]
    assert [share[0] for share in shares] == pytest.approx([50, 50], abs=5)  # ties at random
    assert shares[0].max() > 85
    assert shares[1][-10:].mean() < 13


def test_double_q_learning_acts_on_the_sum_of_both_tables(monkeypatch):
    """Every step to the left is told 1: after one episode the sum has half of it, whichever table the coin chose."""
    real, seen = maximization_bias.choose, []

    def spy(values, epsilon, rng):
        chosen = real(values, epsilon, rng)
        seen.append((values.copy(), chosen))
        return chosen

    monkeypatch.setattr(maximization_bias, "choose", spy)
    monkeypatch.setattr(maximization_bias, "double_target", lambda first, second, rng: np.ones(len(first)))
    config = maximization_bias.Config(episodes=2, step_size=0.5, epsilon=1.0, mean=4.0, deviation=0.0)
    maximization_bias.share_left(True, 3, 200, config, np.random.default_rng(1))
    (_, first), _, (a, second), (b, _) = seen
    assert (a == np.where(first == maximization_bias.LEFT, 0.5, 0.0)[:, None] * [1, 0]).all()
    again = np.isin(
        np.flatnonzero(second == maximization_bias.LEFT), np.flatnonzero(first == maximization_bias.LEFT)
    )
    assert (b.sum(axis=1) == np.where(again, 2.0, 0.0)).all()  # a reward of 4, the mean


# --- convergence ---


def test_the_update_by_hand():
    assert convergence.q_update(2.0, 1.0, 0.9, 4.0, 0.5) == pytest.approx(3.3)
    assert convergence.q_update(2.0, 1.0, 0.9, 0.0, 0.5) == pytest.approx(1.5)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9])
def test_closed_form_of_the_chain(discount):
    task = convergence.chain(0.8, discount, 1.0)
    q = np.zeros((2, 2))
    for _ in range(2000):
        q = (task.probability * (task.reward + discount * q.max(axis=1)[task.next_state])).sum(axis=2)
    assert task.optimal == pytest.approx(q)


def test_frozen_lake_is_gymnasiums():
    task, model = convergence.frozen_lake(0.99), exact.gym_model("FrozenLake-v1")
    live = task.counted[:, 0]
    assert live.sum() == 11
    assert (task.probability * task.reward).sum(axis=2)[live] == pytest.approx(model.rewards[live])
    into = np.zeros((16, 4, 16))
    for k in range(3):
        goes_on = task.probability[..., k] * ~task.ends[..., k]
        np.add.at(into, (*np.indices((16, 4)), task.next_state[..., k]), goes_on)
    assert into[live] == pytest.approx(model.transitions[live])


def test_an_end_has_no_value_and_a_new_episode_begins_at_0():
    """From 0 on to 1, or to an end in 1 or in 2; from 1 an end with reward 1. State 2, which would pay 7, is never acted in."""
    ones = np.ones((3, 1, 3))
    next_state = np.array([[[1, 1, 2]], [[2, 2, 2]], [[0, 0, 0]]])
    reward = np.array([0.0, 1.0, 7.0])[:, None, None] * ones
    ends = np.array([[[False, True, True]], [[True] * 3], [[True] * 3]])
    optimal = np.array([[0.3], [1.0], [0.0]])  # 0.9 x 1 / 3
    task = convergence.Outcomes(ones / 3, next_state, reward, ends, optimal, np.ones((3, 1), bool), 0.0)
    rule, marks = convergence.power(1.0), np.array([4000])
    assert (
        convergence.errors(task, 0.9, rule, convergence.uniform, 10, marks, np.random.default_rng(1))[0]
        < 0.05
    )


def test_step_sizes():
    visits = np.array([1.0, 3.0])
    assert convergence.power(1.0)(visits, 7) == pytest.approx([1 / 2, 1 / 4])
    assert convergence.power(0.5)(visits, 7) == pytest.approx([2**-0.5, 0.5])
    assert convergence.over_all_pairs(visits, 7) == 1 / 8
    assert (convergence.seldom(100, np.array([0.04, 0.06]), 2) == [0, 1]).all()


def test_errors_fall_where_the_conditions_hold_and_stay_where_one_is_broken():
    task, marks = convergence.chain(0.8, 0.5, 1.0), np.array([300, 3000])

    def error(step_size, behaviour):
        return convergence.errors(task, 0.5, step_size, behaviour, 10, marks, np.random.default_rng(1))

    first, last = error(convergence.power(0.8), convergence.uniform)
    assert last < 0.6 * first
    first, last = error(convergence.power(0.8), convergence.never)
    assert last == pytest.approx(first, rel=1e-3)
    assert last == pytest.approx(task.optimal[1, 1])
    first, last = error(lambda visits, t: 0.2, convergence.uniform)
    assert last > 0.7 * first


def test_an_order_is_read_from_the_last_decade():
    marks = np.geomspace(10, 10_000, 31)
    assert convergence.slope(marks, 3 * marks**-0.4) == pytest.approx(-0.4)


# --- Baird ---


def test_first_sweep_by_hand():
    """delta = .99 x 12 - 3 = 8.88 of the upper states; w1 rises by .01 / 7 x 2 x 8.88."""
    first = baird.expected(baird.Config(steps=1), 0.01, np.full(7, 1 / 7))[1]
    assert first[0] == pytest.approx(1 + 0.01 / 7 * 2 * 8.88)
    assert (first[6], first[7]) == (pytest.approx(9.9998, abs=5e-5), pytest.approx(1.0758, abs=5e-5))


def test_the_thousandth_sweep():
    last = baird.expected(baird.Config(), 0.01, np.full(7, 1 / 7))[-1]
    assert last[[0, 6, 7]] == pytest.approx([114.43, 6.85, 335.00], abs=0.006)


def test_errors_at_the_start():
    assert baird.value_error(baird.BEGIN) == pytest.approx(5.318, abs=5e-4)
    assert baird.projected_error(baird.BEGIN, 0.99) == pytest.approx(8.221, abs=5e-4)


def test_what_stops_it():
    assert baird.threshold() == pytest.approx(15 / 17)
    assert np.linalg.eigvals(-baird.key_matrix(0.99, np.full(7, 1 / 7))).real.max() == pytest.approx(
        0.2393, abs=1e-4
    )


@pytest.mark.parametrize("learner", [baird.semi_gradient, baird.tdc, baird.gtd2])
def test_learners_take_the_expected_step(learner):
    """The mean of the steps from one point, over all pairs of states, is the exact expectation under the behaviour policy."""
    c, state, then = baird.Config(), np.repeat(np.arange(7), 7), np.tile(np.arange(7), 7)
    w, second = np.tile(baird.BEGIN, (49, 1)), np.tile(np.linspace(-1, 1, 8), (49, 1))
    rho = np.where(then == 6, 7.0, 0.0)
    learner(w, second, baird.FEATURES[state], baird.FEATURES[then], rho[:, None], c)
    x, x7, v = baird.FEATURES, baird.FEATURES[6], np.linspace(-1, 1, 8)
    delta, guess = 0.99 * 12 - x @ baird.BEGIN, x @ v
    step = {
        "semi_gradient": 0.01 * (delta[:, None] * x),
        "tdc": 0.005 * (delta[:, None] * x - 0.99 * x7 * guess[:, None]),
        "gtd2": 0.005 * (x - 0.99 * x7) * guess[:, None],
    }[learner.__name__].mean(axis=0)
    assert w.mean(axis=0) - baird.BEGIN == pytest.approx(step)
    if learner is not baird.semi_gradient:
        moved = (0.05 * (delta - guess)[:, None] * x).mean(axis=0)
        assert second.mean(axis=0) - v == pytest.approx(moved)


def test_behaviour_visits_all_states_alike_and_the_target_goes_to_the_last():
    then, rho = baird.behave(np.zeros(70_000, int), np.random.default_rng(1))
    assert np.bincount(then) / 10_000 == pytest.approx(np.ones(7), abs=0.05)
    assert ((then == 6) == (rho == 7)).all()
    assert set(rho) == {0, 7}


def test_tdc_in_expectation():
    """The projected error nearly vanishes, the value error does not."""
    path, c = baird.expected_tdc(baird.Config()), baird.Config()
    assert baird.value_error(path[-1]) == pytest.approx(1.9355, abs=5e-5)
    assert baird.projected_error(path[-1], 0.99) == pytest.approx(0.0074, abs=5e-5)
    assert baird.value_error(baird.expected_tdc(baird.Config(steps=20_000))[-1]) == pytest.approx(
        1.931, abs=5e-4
    )
    # the second of two steps, by sums over states
    x, w, v = baird.FEATURES, path[1], c.tdc_second_step_size * (x_delta(baird.BEGIN) @ baird.FEATURES / 7)
    step = (x_delta(w)[:, None] * x - 0.99 * x[6] * (x @ v)[:, None]).mean(axis=0)
    assert path[2] - w == pytest.approx(c.tdc_step_size * step)


def x_delta(w):
    """delta of the step from each state to state 7."""
    values = baird.FEATURES @ w
    return 0.99 * values[6] - values


def test_emphatic_weights_stop_it_and_the_mean_emphasis_is_100():
    path, emphasis = baird.expected_emphatic(baird.Config())
    error = baird.value_error(path)
    assert error.max() == pytest.approx(10.7, abs=0.05)
    assert error[100] == pytest.approx(0.957, abs=5e-4)
    assert error[500] < 1e-4
    assert emphasis[-1] == pytest.approx(100, abs=0.01)


# --- experiments ---

SMALL = [
    (cliff_walking, {"episodes": 20, "runs": 2, "interim_episodes": 1, "asymptotic_episodes": 2, "asymptotic_skipped": 1, "asymptotic_runs": 1}),
    (maximization_bias, {"runs": 20, "episodes": 20, "other_runs": 5}),
    (convergence, {"updates": 200, "lake_updates": 200, "runs": 2}),
    (baird, {"runs": 2, "steps": 20}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "settings"), SMALL, ids=lambda x: getattr(x, "__name__", "").split(".")[-1]
)
def test_experiment_by_seed(module, settings):
    first, again, other = (module.experiment(module.Config(**settings), seed) for seed in (1, 1, 2))
    assert first == again
    assert first.measures != other.measures
    assert all(np.isfinite(list(first.measures.values())))


@pytest.mark.parametrize(
    ("module", "change"),
    [
        (cliff_walking, {"episodes": 10}),
        (cliff_walking, {"epsilon": 0.0}),
        (cliff_walking, {"asymptotic_skipped": 3000}),
        (maximization_bias, {"actions": 1}),
        (maximization_bias, {"step_size": 1.5}),
        (convergence, {"success": 0.5}),
        (convergence, {"updates": 10}),
        (baird, {"discount": 1.0}),
        (baird, {"steps": 3}),
    ],
)
def test_bad_settings(module, change):
    with pytest.raises(UserError, match="allowed"):
        module.experiment(module.Config(**change), 1)
