"""The two theorems by hand, the roles of the two sets of values, and the printed errors of Figure 2."""

import numpy as np
import pytest

from replications.double_dqn import overestimation as o

SMALL = o.Config(theorem_1_draws=50, theorem_2_repetitions=10_000, repetitions=200)


def test_theorem_1_is_tight_at_its_own_errors():
    errors = o.tight_errors(5, 4.0)
    assert errors.tolist() == [1.0, 1.0, 1.0, 1.0, -4.0]
    assert (errors.sum(), np.mean(errors**2)) == (0.0, 4.0)
    assert o.single_estimate(10 + errors) - 10 == o.lower_bound(5, 4.0) == 1.0
    assert o.lower_bound(2, 9.0) == 3.0


def test_theorem_1_fails_for_errors_that_do_not_sum_to_zero():
    found = o.theorem_1(SMALL, np.random.default_rng(1))
    assert found["bound_held"] == 1.0
    assert found["tight_off"] < 1e-9
    errors = np.array([-1.0, -1.0, -2.0])  # the condition matters: all too low
    assert o.single_estimate(errors) < o.lower_bound(3, float(np.mean(errors**2)))


def test_theorem_2_in_closed_form_and_measured():
    assert [o.uniform_bias(m) for m in (2, 10, 100)] == [1 / 3, 9 / 11, 99 / 101]
    found, points = o.theorem_2(SMALL, np.random.default_rng(1))
    assert all(abs(found[f"uniform_bias_{m}"]) < 0.02 for m in (2, 4, 10, 32, 100))
    assert {x: y for _, name, x, y in points if name.startswith("max")}[100] == pytest.approx(
        99 / 101, abs=0.001
    )


def test_expected_maximum_of_normals():
    # 1/sqrt(pi); then as tabled
    assert o.normal_bias(2) == pytest.approx(np.pi**-0.5, abs=1e-9)
    assert [round(o.normal_bias(m), 3) for m in (16, 100, 1000)] == [1.766, 2.508, 3.241]


def test_the_first_values_choose_and_the_second_evaluate():
    first, second = np.array([[1.0, 3.0, 2.0]]), np.array([[10.0, 5.0, 7.0]])
    assert o.double_estimate(first, second).tolist() == [5.0]
    assert o.double_estimate(second, first).tolist() == [1.0]
    assert o.single_estimate(first).tolist() == [3.0]


def test_figure_1_single_is_biased_as_in_theory_and_double_is_not():
    found, points = o.figure_1(SMALL, np.random.default_rng(2))
    assert found["single_largest"] == pytest.approx(3.24, abs=0.1)
    assert found["single_smallest"] == pytest.approx(0.56, abs=0.15)
    assert abs(found["double_mean"]) < 0.07
    assert sorted({x for _, _, x, _ in points}) == [2**k for k in range(1, 11)]


def test_sample_states():
    assert o.sample_states(0).tolist() == [-6, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6]
    assert o.sample_states(9).tolist() == [-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 6]
    assert all(len(o.sample_states(a)) == 11 and {-6.0, 6.0} <= set(o.sample_states(a)) for a in range(10))


def test_degree_9_comes_through_its_samples_nearly_and_degree_6_does_not():
    for row, worst in (("row_2", 0.2), ("row_3", 0.2)):
        states = o.sample_states(4)
        misfit = np.abs(o.fitted(row, 10, states)[:, 4] - o.ROWS[row][0](states)).max()
        assert (misfit < worst) == (row == "row_3")


def test_figure_2_as_printed():
    found, _ = o.figure_2(o.Config())
    rows = [(round(found[f"row_{i}_single"], 2), round(found[f"row_{i}_double"], 2)) for i in (1, 2, 3)]
    assert rows == [(0.61, -0.02), (0.47, 0.02), (3.35, -0.02)]


def test_experiment_is_a_function_of_the_seed():
    first, again, other = (o.experiment(SMALL, seed).measures for seed in (1, 1, 2))
    assert first == again
    assert first["single_largest"] != other["single_largest"]
    assert first["row_1_single"] == other["row_1_single"]
