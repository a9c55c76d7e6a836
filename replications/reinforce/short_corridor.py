"""The short corridor with switched actions: Sutton & Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, Example 13.1 and
Figures 13.1 and 13.2.

Three states look the same; in the second one left and right are switched. The best policy is a coin: right with probability
2 - sqrt(2). REINFORCE finds it; a baseline makes it quicker. `paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.reinforce.short_corridor --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main

BEST = 2 - 2**0.5  # probability of right; v = -(6 + 4 sqrt 2) there
STEP_SIZES = (2**-12, 2**-13, 2**-14)  # Figure 13.1


@dataclass(frozen=True)
class Config:
    """Defaults are the book's, or fill-ins that paper.yaml names."""

    episodes: int = 1_000  # Figure 13.1
    runs: int = 100  # Figure 13.1
    first_right: float = 0.05  # probability of right at the start; not stated
    step_size: float = 2**-13  # alpha without baseline; Figure 13.2
    baseline_step_size: float = 2**-9  # alpha_theta with baseline; Figure 13.2
    value_step_size: float = 2**-6  # alpha_w; Figure 13.2
    floor: float = 0.05  # least probability of an action in Figure 13.2; not in the book
    most_steps: int = 1_000  # of an episode; the book has no limit


def value(right: float) -> float:
    """Exact: v(S) of the start under a policy that goes right with probability p, (2 p - 4) / (p (1 - p))."""
    return (2 * right - 4) / (right * (1 - right))


def right_of(theta: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """The probability of right from preferences (runs, 2) of right and left, kept between floor and 1 - floor."""
    return (1 / (1 + np.exp(np.clip(theta[:, 1] - theta[:, 0], -500, 500)))).clip(floor, 1 - floor)


def play(right: np.ndarray, most: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Episodes of policies (runs,) -> actions (steps, runs): 1 right, 0 left, -1 over; lengths (runs,). A reward is -1 a step."""
    state, actions, length = np.zeros(len(right), int), [], np.zeros(len(right), int)
    while (state < 3).any() and len(actions) < most:
        live = state < 3
        goes_right = rng.random(len(right)) < right
        actions.append(np.where(live, goes_right, -1))
        length += live
        forward = goes_right != (state == 1)  # switched in the second state
        state = np.where(live, np.where(forward, state + 1, np.maximum(state - 1, 0)), state)
    return np.array(actions), length


def learn(
    step_size: float, config: Config, rng: np.random.Generator, *, value_step_size: float = 0.0, floor: float = 0.0,
    step_by_step: bool = False,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """All runs side by side -> returns (episodes, runs) and the probability of right at the end (runs,).

    value_step_size: above 0, the baseline is a learned number w, w += alpha_w (G - w). step_by_step: the policy is evaluated anew
    before each of an episode's updates, as in the book's box; otherwise once for all of them. In both, the eligibility of an action
    is x(a) - sum_b pi(b) x(b), with x(right) = [1, 0] and x(left) = [0, 1].
    """
    c = config
    odds = np.log(c.first_right / (1 - c.first_right)) / 2
    theta, w = np.tile([odds, -odds], (c.runs, 1)), np.zeros(c.runs)
    returns = np.zeros((c.episodes, c.runs))
    for episode in range(c.episodes):
        right = right_of(theta, floor)
        actions, length = play(right, c.most_steps, rng)
        returns[episode] = -length
        if not step_by_step and not value_step_size:
            # G_t = -(steps left): summed over right and left moves, each times its eligibility
            left_over = np.maximum(length - np.arange(len(actions))[:, None], 0)
            change = step_size * (-left_over * ((actions == 1) - right)).sum(axis=0)
            theta += np.stack([change, -change], axis=1)
            continue
        for t, action in enumerate(actions):
            live = action >= 0
            g = -(length - t)
            delta = (g - w) * live
            if value_step_size:
                w += value_step_size * delta
            change = step_size * delta * ((action == 1) - right_of(theta, floor))
            theta += np.stack([change, -change], axis=1)
    return returns, right_of(theta, floor)


def experiment(config: Config, seed: int) -> Findings:
    c = config
    if (
        c.episodes < 200
        or c.runs < 1
        or not 0 < c.first_right < 1
        or not 0 <= c.floor < 0.5
        or c.most_steps < 10
    ):
        raise UserError(
            f"episodes {c.episodes}, runs {c.runs}, first_right {c.first_right:g}, floor {c.floor:g}, most_steps {c.most_steps}: allowed "
            "are 200 episodes, 1 run and 10 steps or more, a probability above 0 and below 1, and a floor below 0.5"
        )
    m, points = {}, []
    learners = {f"alpha = 2^{round(np.log2(a))}": (a, {}) for a in STEP_SIZES}
    learners["plain, step by step"] = (c.step_size, {"floor": c.floor, "step_by_step": True})
    learners["with baseline"] = (
        c.baseline_step_size,
        {"floor": c.floor, "step_by_step": True, "value_step_size": c.value_step_size},
    )
    learners["plain, 2^-9"] = (c.baseline_step_size, {"step_by_step": True})
    keys = ("large", "middle", "small", "plain", "baseline", "unstable")
    found = {}
    for number, (key, (words, (alpha, options))) in enumerate(zip(keys, learners.items(), strict=True)):
        episodes = c.episodes if key != "unstable" else 200  # by then it has collapsed
        rng = np.random.default_rng((seed, number))
        settings = Config(**{**vars(c), "episodes": episodes})
        returns, right = learn(alpha, settings, rng, **options)
        found[key] = mean = returns.mean(axis=1)
        m |= {f"{key}_first": float(mean[:100].mean()), f"{key}_second": float(mean[100:200].mean())}
        m |= {f"{key}_last": float(mean[-100:].mean()), f"{key}_right": float(right.mean())}
        m[f"{key}_collapsed"] = float((np.minimum(right, 1 - right) < 0.01).mean())
        if key != "unstable":
            figure = "figure_13_1" if number < 3 else "figure_13_2"
            blocks = mean[: episodes // 10 * 10].reshape(-1, 10).mean(axis=1)
            points += [(figure, words, 10 * i + 5, float(y)) for i, y in enumerate(blocks)]
    for figure in ("figure_13_1", "figure_13_2"):
        points += [(figure, "the best policy", e, value(BEST)) for e in (5, c.episodes - 5)]
    points += [("example_13_1", "exact value", p, value(p)) for p in np.linspace(0.05, 0.95, 46)]
    m["middle_less_small"] = m["middle_second"] - m["small_second"]
    m["baseline_less_plain"] = m["baseline_second"] - m["plain_second"]
    return Findings(m, points)


if __name__ == "__main__":
    main("reinforce", "short_corridor", Config, experiment)
