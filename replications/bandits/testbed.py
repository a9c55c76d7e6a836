"""The 10-armed testbed of Sutton & Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, chapter 2: Figures 2.2 to
2.6 and Exercise 2.5.

2,000 problems of 10 arms: q*(a) ~ N(0, 1) is drawn once a problem, a reward is N(q*(A), 1). Every agent plays the same problems, one
run each. agents.py has them; `paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.bandits.testbed --seed 1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main
from replications.bandits.agents import GradientAgent, ValueAgent, play


@dataclass(frozen=True)
class Config:
    """Defaults are the book's ("S&B"), pages of its second edition."""

    arms: int = 10  # S&B p. 28
    runs: int = 2_000  # problems, a new one for each run; p. 28
    steps: int = 1_000  # of a run; p. 28
    long_steps: int = 10_000  # of Exercise 2.5, and for what Figure 2.2 says of the long run
    small_epsilon: float = 0.01  # Figure 2.2
    large_epsilon: float = 0.1  # Figures 2.2, 2.3, 2.4, Exercise 2.5
    step_size: float = 0.1  # constant; Figure 2.3, Exercise 2.5
    optimistic_value: float = 5.0  # Q1; Figure 2.3
    confidence: float = 2.0  # c of UCB; Figure 2.4
    small_gradient_step: float = 0.1  # alpha; Figure 2.5
    large_gradient_step: float = 0.4  # alpha; Figure 2.5
    gradient_mean: float = 4.0  # of q*; Figure 2.5
    drift: float = 0.01  # standard deviation of what is added to each q* a step; Exercise 2.5


WINDOW = 100  # the last steps, over which the end of a curve is averaged
# Figure 2.6: one parameter each, in powers of two
STUDY = {"epsilon": range(-7, -1), "gradient": range(-5, 2), "ucb": range(-4, 3), "optimistic": range(-2, 3)}


# --- figures ---


class Figures:
    """Plays agents on the same problems and keeps their curves as points, thinned."""

    def __init__(self, config: Config, seed: int):
        self.c, self.seed, self.played, self.points = config, seed, 0, []
        self.problems = np.random.default_rng((seed, 0)).standard_normal((config.runs, config.arms))

    def play(
        self, agent: Callable[..., ValueAgent | GradientAgent], steps: int, mean: float = 0.0, drift: float = 0.0,
        **settings,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """drift: the arms begin equal, at 0, and move."""
        self.played += 1
        problems = self.problems + mean if not drift else np.zeros_like(self.problems)
        rng = np.random.default_rng((self.seed, self.played))
        return play(problems, agent(problems.shape, **settings), steps, rng, drift)

    def draw(self, figure: str, series: str, curve: np.ndarray) -> None:
        """The first steps one by one, then means over blocks of steps."""
        first, block = min(20, len(curve)), max(len(curve) // 50, 1)
        self.points += [(figure, series, t + 1, float(y)) for t, y in enumerate(curve[:first])]
        for begin in range(first, len(curve) - block + 1, block):
            middle = begin + (block + 1) / 2
            self.points.append((figure, series, middle, float(curve[begin : begin + block].mean())))


def end(curve: np.ndarray) -> float:
    return float(curve[-WINDOW:].mean())


def figures_2_2_to_2_4(figures: Figures) -> dict[str, float]:
    c, m = figures.c, {}
    greedy, small, large = (
        figures.play(ValueAgent, c.steps, epsilon=epsilon) for epsilon in (0.0, c.small_epsilon, c.large_epsilon)
    )  # fmt: skip
    names = ("greedy", f"epsilon {c.small_epsilon:g}", f"epsilon {c.large_epsilon:g}")
    for name, key, (reward, optimal) in zip(names, ("greedy", "small", "large"), (greedy, small, large), strict=True):  # fmt: skip
        figures.draw("figure_2_2_reward", name, reward)
        figures.draw("figure_2_2_optimal", name, optimal)
        m |= {f"{key}_reward": end(reward), f"{key}_optimal": end(optimal)}
    m["large_less_greedy_reward"] = m["large_reward"] - m["greedy_reward"]
    m["small_less_greedy_reward"] = m["small_reward"] - m["greedy_reward"]
    m["large_less_small_reward"] = m["large_reward"] - m["small_reward"]
    m["large_less_small_optimal"] = m["large_optimal"] - m["small_optimal"]
    m["small_less_greedy_optimal"] = m["small_optimal"] - m["greedy_optimal"]
    m["large_highest_optimal"] = float(large[1].max())
    long = {
        key: figures.play(ValueAgent, c.long_steps, epsilon=epsilon)
        for key, epsilon in (("small", c.small_epsilon), ("large", c.large_epsilon))
    }
    m["long_small_less_large_reward"] = end(long["small"][0]) - end(long["large"][0])

    optimistic = figures.play(ValueAgent, c.steps, initial=c.optimistic_value, step_size=c.step_size)[1]
    realistic = figures.play(ValueAgent, c.steps, epsilon=c.large_epsilon, step_size=c.step_size)[1]
    figures.draw("figure_2_3", f"optimistic, Q1 = {c.optimistic_value:g}", optimistic)
    figures.draw("figure_2_3", f"realistic, epsilon {c.large_epsilon:g}", realistic)
    k = c.arms  # every arm was tried once after k steps
    m["optimistic_optimal"], m["realistic_optimal"] = end(optimistic), end(realistic)
    m["optimistic_lead"] = end(optimistic) - end(realistic)
    m["realistic_lead_early"] = float(realistic[5 * k - 1] - optimistic[5 * k - 1])
    m["optimistic_spike"] = float(optimistic[k] - max(optimistic[k - 1], optimistic[k + 1]))

    ucb, ucb_optimal = figures.play(ValueAgent, c.steps, confidence=c.confidence)
    figures.draw("figure_2_4", f"UCB, c = {c.confidence:g}", ucb)
    figures.draw("figure_2_4", f"epsilon {c.large_epsilon:g}", large[0])
    m |= {"ucb_reward": end(ucb), "ucb_optimal": end(ucb_optimal)}
    m["ucb_lead"] = end(ucb) - m["large_reward"]
    m["ucb_spike"] = float(ucb[k] - ucb[k + 1 : 2 * k].mean())
    m["ucb_first_steps"] = float(ucb[:k].mean())
    return m


def figure_2_5(figures: Figures) -> dict[str, float]:
    c, m, order = figures.c, {}, []
    for baseline in (True, False):
        for alpha in (c.small_gradient_step, c.large_gradient_step):
            optimal = figures.play(
                GradientAgent, c.steps, mean=c.gradient_mean, step_size=alpha, baseline=baseline
            )[1]
            words = f"{'with' if baseline else 'without'} baseline, alpha = {alpha:g}"
            figures.draw("figure_2_5", words, optimal)
            order.append(end(optimal))
            m[f"gradient_{'with' if baseline else 'without'}_{len(order)}"] = order[-1]
    for place in range(3):
        m[f"gradient_gap_{place + 1}"] = order[place] - order[place + 1]
    return m


def figure_2_6(figures: Figures) -> dict[str, float]:
    """Mean reward over all steps, against the one parameter of each method; how far its best stands above both ends of its range."""
    c, m = figures.c, {}
    agents = {
        "epsilon": lambda x: {"agent": ValueAgent, "epsilon": x},
        "gradient": lambda x: {"agent": GradientAgent, "step_size": x},
        "ucb": lambda x: {"agent": ValueAgent, "confidence": x},
        "optimistic": lambda x: {"agent": ValueAgent, "initial": x, "step_size": c.step_size},
    }
    for name, powers in STUDY.items():
        means = [float(figures.play(steps=c.steps, **agents[name](2.0**power))[0].mean()) for power in powers]
        figures.points += [
            ("figure_2_6", name, 2.0**power, mean) for power, mean in zip(powers, means, strict=True)
        ]
        m[f"study_{name}"] = max(means)
        m[f"study_{name}_peak"] = max(means) - max(means[0], means[-1])
    m["study_ucb_less_gradient"] = m["study_ucb"] - m["study_gradient"]
    m["study_gradient_less_epsilon"] = m["study_gradient"] - m["study_epsilon"]
    return m


def exercise_2_5(figures: Figures) -> dict[str, float]:
    c, m = figures.c, {}
    for name, step_size in (("constant step", c.step_size), ("sample averages", None)):
        reward, optimal = figures.play(
            ValueAgent, c.long_steps, drift=c.drift, epsilon=c.large_epsilon, step_size=step_size
        )
        figures.draw("exercise_2_5_reward", name, reward)
        figures.draw("exercise_2_5_optimal", name, optimal)
        key = name.split()[0]
        m |= {f"drift_{key}_reward": end(reward), f"drift_{key}_optimal": end(optimal)}
    m["drift_reward_lead"] = m["drift_constant_reward"] - m["drift_sample_reward"]
    m["drift_optimal_lead"] = m["drift_constant_optimal"] - m["drift_sample_optimal"]
    return m


def experiment(config: Config, seed: int) -> Findings:
    c = config
    if c.arms < 2 or c.runs < 1 or min(c.steps, c.long_steps) < max(5 * c.arms, WINDOW):
        raise UserError(
            f"arms {c.arms}, runs {c.runs}, steps {c.steps}, long_steps {c.long_steps}: allowed are 2 arms and 1 run or more, and "
            f"steps of at least {max(5 * c.arms, WINDOW)}, since the last {WINDOW} are averaged and the step 5 x arms is looked at"
        )
    if not (0 <= c.small_epsilon <= 1 and 0 <= c.large_epsilon <= 1 and c.drift > 0):
        raise UserError("small_epsilon and large_epsilon are probabilities, and drift must be above 0")
    figures = Figures(c, seed)
    parts = (figures_2_2_to_2_4, figure_2_5, figure_2_6, exercise_2_5)
    measures = {name: value for part in parts for name, value in part(figures).items()}
    return Findings(measures, figures.points)


if __name__ == "__main__":
    main("bandits", "testbed", Config, experiment)
