"""Theorem 1 of Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", Machine Learning 8,
1992, measured: E[delta w] = alpha grad E[r], for each of the paper's units and for every baseline that does not look at the action.

Units with one input answer a bandit whose rewards depend on the action alone, so that the gradient is known exactly. Also the
linear reward-inaction automaton, which is a special case, and the baselines that break the theorem. `paper.yaml` holds constants,
fill-ins and claims.

    ./run python -m replications.reinforce.bandit --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.runs.laptop import Findings, main


@dataclass(frozen=True)
class Config:
    """The theorem needs none of these; all are ours."""

    draws: int = 200_000  # of each unit and baseline
    step_size: float = 0.1  # alpha
    decay: float = 0.9  # of the running mean of rewards, b <- decay b + (1 - decay) r
    probability: float = 0.3  # p of the Bernoulli unit, which is its weight
    weight: float = 0.4  # of the Bernoulli-logistic unit, whose input is 1
    mean: float = 0.3  # of the Gaussian unit
    spread: float = 0.8  # its sigma


# --- units: what they draw, and the eligibility d ln g / d w, exactly ---


def logistic(w: float) -> float:
    return float(1 / (1 + np.exp(-w)))


def bernoulli_eligibility(y: np.ndarray, w: float, x: float = 1.0) -> np.ndarray:
    """(y - p) x, p = sigma(w x)."""
    return (y - logistic(w * x)) * x


def probability_eligibility(y: np.ndarray, p: float) -> np.ndarray:
    """(y - p) / (p (1 - p)): of a Bernoulli unit whose weight is p itself."""
    return (y - p) / (p * (1 - p))


def mean_eligibility(y: np.ndarray, mean: float, spread: float) -> np.ndarray:
    """(y - mu) / sigma^2."""
    return (y - mean) / spread**2


def spread_eligibility(y: np.ndarray, mean: float, spread: float) -> np.ndarray:
    """((y - mu)^2 - sigma^2) / sigma^3."""
    return ((y - mean) ** 2 - spread**2) / spread**3


def softmax_eligibility(y: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """1{k = y} - pi_k, (draws, arms); not in the paper."""
    policy = np.exp(logits - logits.max())
    policy /= policy.sum()
    return np.eye(len(logits))[y] - policy


def delta(
    reward: np.ndarray, baseline: np.ndarray | float, eligibility: np.ndarray, alpha: float
) -> np.ndarray:
    """The rule, reward increment = nonnegative factor x offset reinforcement x characteristic eligibility."""
    return alpha * (reward - baseline) * eligibility


def reward_inaction(y: np.ndarray, reward: np.ndarray, p: float, rho: float) -> np.ndarray:
    """L_R-I, the linear reward-inaction automaton: rho r (y - p). REINFORCE with weight p, b = 0 and alpha = rho p (1 - p)."""
    return rho * reward * (y - p)


# --- baselines ---


def running_mean(rewards: np.ndarray, decay: float, peeks: bool = False) -> np.ndarray:
    """b of each trial: the mean of the rewards before it, weighted by age. peeks: this trial's too, which breaks the theorem."""
    b, found = 0.0, np.empty(len(rewards))
    for i, r in enumerate(rewards.tolist()):
        found[i] = b
        b = decay * b + (1 - decay) * r
        if peeks:
            found[i] = b
    return found


# --- the measurement ---


def units(config: Config, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """name -> rewards (draws,), eligibilities (draws,), and the exact d E[r] / d w.

    Two arms pay 1 with probabilities .8 and .3; an action y on a line pays 3 y - y^2 and noise.
    """
    n, found = config.draws, {}

    def two_arms(p: float) -> tuple[np.ndarray, np.ndarray]:
        y = (rng.random(n) < p).astype(float)
        return y, (rng.random(n) < np.where(y == 1, 0.8, 0.3)).astype(float)

    p = logistic(config.weight)
    y, r = two_arms(p)
    found["bernoulli_logistic"] = (r, bernoulli_eligibility(y, config.weight), 0.5 * p * (1 - p))
    y, r = two_arms(config.probability)
    found["bernoulli"] = (r, probability_eligibility(y, config.probability), 0.5)
    mu, sigma = config.mean, config.spread
    y = rng.normal(mu, sigma, n)
    r = 3 * y - y**2 + rng.normal(0, 0.5, n)  # E[r] = 3 mu - mu^2 - sigma^2
    found["gaussian_mean"] = (r, mean_eligibility(y, mu, sigma), 3 - 2 * mu)
    found["gaussian_spread"] = (r, spread_eligibility(y, mu, sigma), -2 * sigma)
    logits, pays = np.array([0.0, 0.5, -0.5]), np.array([0.2, 0.5, 0.9])
    policy = np.exp(logits) / np.exp(logits).sum()
    arm = rng.choice(3, size=n, p=policy)
    r = (rng.random(n) < pays[arm]).astype(float)
    # d E[r] / d z_0 = pi_0 (r_0 - E[r])
    found["softmax"] = (
        r,
        softmax_eligibility(arm, logits)[:, 0],
        float(policy[0] * (pays[0] - policy @ pays)),
    )
    return found


def off(change: np.ndarray, expected: float) -> float:
    """How many standard errors the mean change is away from what it should be."""
    return float((change.mean() - expected) / (change.std() / len(change) ** 0.5))


def experiment(config: Config, seed: int) -> Findings:
    c = config
    m, points, rng = {}, [], np.random.default_rng(seed)
    largest: dict[str, float] = {}
    for place, (name, (r, e, gradient)) in enumerate(units(c, rng).items()):
        expected = c.step_size * gradient
        # the running mean follows the trials before, which know nothing of this one's action
        baselines = {"none": 0.0, "constant": 2.0, "running": running_mean(r, c.decay)}
        for words, b in baselines.items():
            change = delta(r, b, e, c.step_size)
            z = off(change[100:], expected)
            m[f"{name}_{words}"] = z
            largest[name] = max(largest.get(name, 0.0), abs(z))
            points.append(
                (f"baseline_{words}", "measured over exact", place + 1, float(change[100:].mean() / expected))
            )
        m[f"{name}_largest"] = largest[name]
        spread = {words: float(delta(r, b, e, c.step_size)[100:].std()) for words, b in baselines.items()}
        m[f"{name}_spread_ratio"] = spread["running"] / spread["none"]
        peeking = delta(r, running_mean(r, c.decay, peeks=True), e, c.step_size)
        m[f"{name}_peeking"] = float(peeking[100:].mean() / expected)
        looking = delta(r, r * (e > 0), e, c.step_size)  # a baseline that looks at the action
        m[f"{name}_looking"] = abs(off(looking, expected))
    # the running mean with this trial's reward in it is decay times (r - b): the same direction, a smaller step
    m["peeking_over_decay"] = float(np.mean([m[f"{n}_peeking"] for n in largest])) / c.decay
    m["looking_least"] = min(m[f"{n}_looking"] for n in largest)
    # in the expectation of the best constant, the spread is smallest near E[r]
    r, e, _ = units(c, np.random.default_rng((seed, 1)))["bernoulli_logistic"]
    for b in np.linspace(-1, 2, 31):
        points.append(
            ("spread", "Bernoulli-logistic unit", float(b), float(delta(r, b, e, c.step_size).std()))
        )
    points.append(("spread", "mean reward", float(r.mean()), float(delta(r, r.mean(), e, c.step_size).std())))
    # L_R-I, trial by trial
    p, rho = 0.7, 0.05
    y = (rng.random(1000) < p).astype(float)
    r = (rng.random(1000) < 0.5).astype(float)
    rule = delta(r, 0.0, probability_eligibility(y, p), rho * p * (1 - p))
    m["reward_inaction_off"] = float(np.abs(rule - reward_inaction(y, r, p, rho)).max())
    return Findings(m, points)


if __name__ == "__main__":
    main("reinforce", "bandit", Config, experiment)
