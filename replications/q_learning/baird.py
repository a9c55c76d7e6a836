"""Baird's counterexample: Sutton & Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, Figures 11.2, 11.5 and 11.6.

Function approximation, bootstrapping and off-policy training together make weights grow without end: with sampled transitions and
with exact expectations, at any step size. What stops it: a small discount, training on-policy, the gradient of the projected
Bellman error (TDC, GTD2), emphatic weights. `paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.q_learning.baird --seed 1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main

STATES, WEIGHTS = 7, 8
# v(i) = 2 w_i + w_8 of the six upper states, v(7) = w_7 + 2 w_8
FEATURES = np.vstack(
    [np.hstack([2 * np.eye(6), np.zeros((6, 1)), np.ones((6, 1))]), [0, 0, 0, 0, 0, 0, 1, 2]]
)
BEGIN = np.array([1.0, 1, 1, 1, 1, 1, 10, 1])  # w of Figure 11.2's caption; here in all figures


@dataclass(frozen=True)
class Config:
    """Defaults are the book's."""

    discount: float = 0.99  # Section 11.2
    step_size: float = 0.01  # alpha; Figure 11.2
    steps: int = 1_000  # of every figure
    runs: int = 100  # of sampled learners; the book shows one
    tdc_step_size: float = 0.005  # alpha; Figure 11.5
    tdc_second_step_size: float = 0.05  # beta; Figure 11.5
    emphatic_step_size: float = 0.03  # alpha; Figure 11.6


# --- the two errors, exactly ---

SQUARES = FEATURES.T @ FEATURES / STATES  # E[x x^T] under the behaviour policy, which visits all states alike


def key_matrix(discount: float, weighting: np.ndarray) -> np.ndarray:
    """A = E[x (x - discount x')^T] under the target policy, which always goes to state 7: w falls by alpha A w. weighting: (7,)."""
    return FEATURES.T @ (weighting[:, None] * (FEATURES - discount * FEATURES[6]))


def value_error(weights: np.ndarray) -> np.ndarray:
    """The root of VE: (..., 8) -> (...). All true values are 0."""
    return np.sqrt(((weights @ FEATURES.T) ** 2).mean(axis=-1))


def projected_error(weights: np.ndarray, discount: float) -> np.ndarray:
    """The root of PBE, the Bellman error's projection: (..., 8) -> (...)."""
    values = weights @ FEATURES.T
    delta = discount * values[..., 6:7] - values
    projection = FEATURES @ np.linalg.pinv(FEATURES)
    return np.sqrt(((delta @ projection.T) ** 2).mean(axis=-1))


def threshold() -> float:
    """The discount up to which expected semi-gradient updates do not diverge, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        stable = np.linalg.eigvals(-key_matrix(middle, np.full(STATES, 1 / STATES))).real.max() <= 1e-10
        low, high = (middle, high) if stable else (low, middle)
    return low


# --- learners: each takes one step for all runs ---


def behave(state: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The next states, and rho = pi / b: solid, to state 7, with probability 1/7 (rho 7); dashed, to one of the others (rho 0).

    The next state does not depend on the present one.
    """
    then = rng.integers(STATES, size=len(state))
    return then, np.where(then == 6, 7.0, 0.0)


def td_error(w: np.ndarray, x: np.ndarray, x_then: np.ndarray, discount: float) -> np.ndarray:
    """delta = R + discount v(S') - v(S), with R = 0: (runs, 8) each -> (runs, 1)."""
    return ((discount * x_then - x) * w).sum(axis=1, keepdims=True)


def semi_gradient(w, second, x, x_then, rho, c: Config) -> None:
    """Equation 11.2."""
    w += c.step_size * rho * td_error(w, x, x_then, c.discount) * x


def tdc(w, second, x, x_then, rho, c: Config) -> None:
    """Section 11.7, TD(0) with gradient correction; `second` is the book's v."""
    delta, guess = td_error(w, x, x_then, c.discount), (second * x).sum(axis=1, keepdims=True)
    w += c.tdc_step_size * rho * (delta * x - c.discount * x_then * guess)
    second += c.tdc_second_step_size * rho * (delta - guess) * x


def gtd2(w, second, x, x_then, rho, c: Config) -> None:
    """Section 11.7, GTD2, with TDC's step sizes."""
    delta, guess = td_error(w, x, x_then, c.discount), (second * x).sum(axis=1, keepdims=True)
    w += c.tdc_step_size * rho * (x - c.discount * x_then) * guess
    second += c.tdc_second_step_size * rho * (delta - guess) * x


def sampled(learner: Callable, config: Config, rng: np.random.Generator) -> np.ndarray:
    """-> (steps + 1, runs, 8) weights."""
    w, second = np.tile(BEGIN, (config.runs, 1)), np.zeros((config.runs, WEIGHTS))
    state, path = rng.integers(STATES, size=config.runs), [w.copy()]
    for _ in range(config.steps):
        then, rho = behave(state, rng)
        learner(w, second, FEATURES[state], FEATURES[then], rho[:, None], config)
        state = then
        path.append(w.copy())
    return np.array(path)


def expected(config: Config, step_size: float, weighting: np.ndarray, discount: float | None = None) -> np.ndarray:  # fmt: skip
    """Sweeps over all states with exact expectations -> (steps + 1, 8) weights."""
    a = key_matrix(config.discount if discount is None else discount, weighting)
    path = [BEGIN.copy()]
    for _ in range(config.steps):
        path.append(path[-1] - step_size * a @ path[-1])
    return np.array(path)


def expected_tdc(config: Config) -> np.ndarray:
    """Figure 11.5, right: TDC's step in expectation, both weights at once -> (steps + 1, 8) weights."""
    c, w, second, path = config, BEGIN.copy(), np.zeros(WEIGHTS), [BEGIN.copy()]
    a = key_matrix(c.discount, np.full(STATES, 1 / STATES))
    correction = c.discount * np.outer(FEATURES[6], FEATURES.mean(axis=0))  # E[rho discount x' x^T]
    for _ in range(c.steps):
        delta = -a @ w  # E[rho delta x]
        w = w + c.tdc_step_size * (delta - correction @ second)
        second = second + c.tdc_second_step_size * (delta - SQUARES @ second)
        path.append(w)
    return np.array(path)


def expected_emphatic(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Figure 11.6: emphatic TD in expectation -> (steps + 1, 8) weights and (steps,) the mean of the emphasis M.

    M_t = 1 + discount rho_{t-1} M_{t-1}, in expectation given the state: what arrives in state 7 came by the solid action.
    """
    w, path, emphasis, m = BEGIN.copy(), [BEGIN.copy()], [], np.ones(STATES)
    for _ in range(config.steps):
        w = w - config.emphatic_step_size * key_matrix(config.discount, m / STATES) @ w
        # E[rho M] over the states before, all alike likely: 7 times the mean for state 7, 0 for others, which rho = 0 led to
        m = 1 + config.discount * np.where(np.arange(STATES) == 6, m.mean() * STATES, 0.0)
        path.append(w.copy())
        emphasis.append(float(m.mean()))
    return np.array(path), np.array(emphasis)


# --- figures ---


def experiment(config: Config, seed: int) -> Findings:
    c = config
    if not 0 <= c.discount < 1 or c.runs < 1 or c.steps < 10 or min(c.step_size, c.tdc_step_size, c.emphatic_step_size) <= 0:  # fmt: skip
        raise UserError(
            f"discount {c.discount:g}, runs {c.runs}, steps {c.steps}: allowed are a discount of 0 up to 1 (without it), 1 run and 10 "
            "steps or more, and step sizes above 0"
        )
    marks = np.unique(np.linspace(0, c.steps, 101).round().astype(int))
    uniform, only_lower = np.full(STATES, 1 / STATES), np.eye(STATES)[6]
    m, points = {}, []

    def draw(figure: str, series: str, ys: np.ndarray) -> None:
        points.extend((figure, series, int(t), float(ys[t])) for t in marks if t < len(ys))

    def draw_weights(figure: str, path: np.ndarray) -> None:
        for series, column in (("w1", 0), ("w7", 6), ("w8", 7)):
            draw(figure, series, path[:, column])

    found = {
        learner.__name__: sampled(learner, c, np.random.default_rng((seed, number)))
        for number, learner in enumerate((semi_gradient, tdc, gtd2))
    }
    # Figure 11.2: the weights grow, sampled or swept
    norms = np.linalg.norm(found["semi_gradient"][-1], axis=1)
    m |= {"td_norm": float(norms.mean()), "td_norm_smallest": float(norms.min())}
    swept = expected(c, c.step_size, uniform)
    m |= {
        "dp_norm": float(np.linalg.norm(swept[-1])),
        "dp_w8": float(swept[-1, 7]),
        "dp_w1": float(swept[-1, 0]),
    }
    draw_weights("figure_11_2_td", found["semi_gradient"][:, 0])
    draw_weights("figure_11_2_dp", swept)
    # What stops it: a smaller discount, on-policy training
    m["largest_stable_discount"] = threshold()
    on_policy = expected(c, c.step_size, only_lower) @ FEATURES[6]
    stable = expected(c, c.step_size, uniform, discount=0.99 * threshold())
    m |= {"on_policy_v7": float(on_policy[-1]), "stable_norm": float(np.linalg.norm(stable[-1]))}
    for name, path in (("expected updates", swept), ("discount 0.99 x 15/17", stable)):
        draw("what_stops_it", name, np.linalg.norm(path, axis=1))
    draw("what_stops_it", "on-policy: the value of state 7", on_policy)
    # Figure 11.5: gradient TD; the projected error vanishes, the value error does not
    for name in ("tdc", "gtd2"):
        value, projected = value_error(found[name]), projected_error(found[name], c.discount)
        m |= {
            f"{name}_value_error": float(value[-1].mean()),
            f"{name}_projected_error": float(projected[-1].mean()),
        }
        m[f"{name}_projected_error_largest"] = float(projected[-1].max())
        draw(f"figure_11_5_{name}", "root of VE", value.mean(axis=1))
        draw(f"figure_11_5_{name}", "root of PBE", projected.mean(axis=1))
    path = expected_tdc(c)
    value, projected = value_error(path), projected_error(path, c.discount)
    m |= {"tdc_expected_value_error": float(value[-1]), "tdc_expected_projected_error": float(projected[-1])}
    draw("figure_11_5_expected", "root of VE", value)
    draw("figure_11_5_expected", "root of PBE", projected)
    draw_weights("figure_11_5_expected", path)
    draw_weights("figure_11_5_tdc", found["tdc"][:, 0])
    # Figure 11.6: emphatic TD, in expectation
    path, emphasis = expected_emphatic(c)
    value = value_error(path)
    m |= {
        "emphatic_peak": float(value.max()),
        "emphatic_half_way": float(value[c.steps // 2]),
        "emphasis": float(emphasis[-1]),
    }
    draw("figure_11_6", "root of VE", value)
    draw_weights("figure_11_6", path)
    return Findings(m, points)


if __name__ == "__main__":
    main("q_learning", "baird", Config, experiment)
