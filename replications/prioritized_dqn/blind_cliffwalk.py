"""The Blind Cliffwalk of Schaul, Quan, Antonoglou & Silver, "Prioritized Experience Replay", ICLR 2016: Figures 1 and 2.

n states in a row. In each, the right action leads on and the wrong one ends the episode with 0; the right action of the last state
ends it with 1. A replay memory holds every one of the 2^n action sequences, played until it ends: 2^(n+1) - 2 transitions, of
which one has a reward. Q-learning replays one transition at a time; counted is how many updates it takes until the mean
squared error of all action values is below 0.001, by how the transition is chosen. `paper.yaml` holds constants and claims.

    ./run python -m replications.prioritized_dqn.blind_cliffwalk --seed 1
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's (appendix B.1), or fill-ins that paper.yaml names."""

    fewest_states: int = 2
    most_states: int = 16  # every n between the two
    step_size: float = 0.25
    initial_scale: float = 0.1  # standard deviation of the initial weights
    tolerance: float = 0.001  # mean squared error of the action values at which learning has succeeded
    rank_alpha: float = 0.7
    proportional_alpha: float = 0.6
    priority_offset: float = 1e-6  # added to |error|; "a small positive constant"
    most_updates: int = 50_000_000  # a replay that has not succeeded by then is given up with an error


# --- the problem ---


def memory(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """All 2^n action sequences until they end, in random order: (T,) states and (T,) whether the action was right, int64.

    T = 2^(n+1) - 2. Actions are told apart by being right (1) or wrong (0), not by their label: labels alternate with the state,
    and matter to the linear values only.
    """
    states, right = [], []
    for sequence in rng.permutation(2**n):
        for state in range(n):
            right.append((int(sequence) >> state) & 1)
            states.append(state)
            if not right[-1]:
                break
    return np.array(states), np.array(right)


def true_values(n: int) -> np.ndarray:
    """(n, 2): discount^(n - 1 - state) for the right action, [:, 1], and 0 for the wrong one; discount = 1 - 1/n."""
    values = np.zeros((n, 2))
    values[:, 1] = (1 - 1 / n) ** np.arange(n - 1, -1, -1.0)
    return values


class Values:
    """Action values, tabular or linear, and their squared error against the truth, kept up to date in O(1) an update.

    Linear: each action label has a weight for every state (one-hot) and one for a constant feature, which all states share;
    so an update moves the values of that label in all states. The right action's label alternates.
    """

    def __init__(self, n: int, kind: Literal["tabular", "linear"], config: Config, rng: np.random.Generator):
        self.n, self.step_size, self.discount = n, config.step_size, 1 - 1 / n
        self.linear = kind == "linear"
        self.q = rng.normal(scale=config.initial_scale, size=2 * n).tolist()  # of state s: [2 s + label]
        self.bias = rng.normal(scale=config.initial_scale, size=2).tolist() if self.linear else [0.0, 0.0]
        self.right = [s % 2 if self.linear else 1 for s in range(n)]  # the right action's label
        truth = true_values(n)
        self.truth = [truth[s, int(label == self.right[s])] for s in range(n) for label in (0, 1)]
        self.limit = config.tolerance * 2 * n
        self.recount()

    def recount(self) -> None:
        """Sums of the errors and of their squares, by label."""
        errors = [self.q[k] + self.bias[k % 2] - self.truth[k] for k in range(2 * self.n)]
        self.sums = [math.fsum(errors[label::2]) for label in (0, 1)]
        self.squares = [math.fsum(e * e for e in errors[label::2]) for label in (0, 1)]

    def error(self, state: int, right: int) -> float:
        """The temporal-difference error r + discount max_a Q(s', a) - Q(s, a) of a transition."""
        label = self.right[state] if right else 1 - self.right[state]
        target = 0.0
        if right:
            k = 2 * state + 2
            target = (
                1.0
                if k == 2 * self.n
                else self.discount * max(self.q[k] + self.bias[0], self.q[k + 1] + self.bias[1])
            )
        return target - self.q[2 * state + label] - self.bias[label]

    def update(self, state: int, right: int) -> float:
        """w <- w + step_size error phi(s, a). Returns the error before the update."""
        error = self.error(state, right)
        label = self.right[state] if right else 1 - self.right[state]
        k, change = 2 * state + label, self.step_size * error
        off = self.q[k] + self.bias[label] - self.truth[k]
        self.q[k] += change
        self.squares[label] += change * (2 * off + change)
        self.sums[label] += change
        if self.linear:
            self.bias[label] += change
            self.squares[label] += change * (2 * self.sums[label] + self.n * change)
            self.sums[label] += self.n * change
        return error

    def solved(self) -> bool:
        """True once the mean squared error over all 2 n action values is below the tolerance."""
        if self.squares[0] + self.squares[1] >= self.limit:
            return False
        self.recount()  # rounding of a million small changes must not decide
        return self.squares[0] + self.squares[1] < self.limit

    def loss_after(self, state: int, right: int) -> float:
        """The squared error that `update` of this transition would leave."""
        label = self.right[state] if right else 1 - self.right[state]
        k, change = 2 * state + label, self.step_size * self.error(state, right)
        off = self.q[k] + self.bias[label] - self.truth[k]
        squares = self.squares[0] + self.squares[1] + change * (2 * off + change)
        if self.linear:
            squares += change * (2 * (self.sums[label] + change) + self.n * change)
        return squares


# --- ways to choose what is replayed: each yields an index into the memory and is sent the error found there ---

Choice = Iterator[int]
BLOCK = 4096  # random numbers drawn at once


def uniform(size: int, rng: np.random.Generator):
    while True:
        for index in rng.integers(size, size=BLOCK).tolist():  # noqa: UP028 (a list takes no `send`)
            yield index


def greedy(size: int, rng: np.random.Generator):
    """The largest |error| that was last seen; what was never replayed has priority 1, and goes in the memory's order."""
    heap = [(-1.0, index) for index in range(size)]
    while True:
        index = heap[0][1]
        error = yield index
        heapq.heapreplace(heap, (-abs(error), index))


def rank_based(size: int, rng: np.random.Generator, alpha: float):
    """P(i) ~ (1 / rank)^alpha by |error|. The ranks are the places in a binary heap, as in the paper: nearly sorted."""
    cumulative = np.cumsum(np.arange(1, size + 1) ** -alpha)
    priorities = [1.0] * size  # of the heap's places; a place's children are 2 place + 1 and 2 place + 2
    indices = list(range(size))
    while True:
        for place in np.searchsorted(cumulative, rng.random(BLOCK) * cumulative[-1]).tolist():
            error = yield indices[place]
            p, index = abs(error), indices[place]
            while place and priorities[up := (place - 1) // 2] < p:
                priorities[place], indices[place] = priorities[up], indices[up]
                place = up
            while (down := 2 * place + 1) < size:
                if down + 1 < size and priorities[down + 1] > priorities[down]:
                    down += 1
                if priorities[down] <= p:
                    break
                priorities[place], indices[place] = priorities[down], indices[down]
                place = down
            priorities[place], indices[place] = p, index


def proportional(size: int, rng: np.random.Generator, alpha: float, offset: float):
    """P(i) ~ (|error| + offset)^alpha, by a tree of sums."""
    leaves = 1 << (size - 1).bit_length()
    tree = (
        [0.0] * leaves + [1.0] * size + [0.0] * (leaves - size)
    )  # the root is [1], the children of k are 2 k and 2 k + 1
    for k in range(leaves - 1, 0, -1):
        tree[k] = tree[2 * k] + tree[2 * k + 1]
    while True:
        for share in rng.random(BLOCK).tolist():
            left, k = share * tree[1], 1
            while k < leaves:
                k *= 2
                if left >= tree[k] and tree[k + 1] > 0:
                    left -= tree[k]
                    k += 1
            error = yield k - leaves
            tree[k] = (abs(error) + offset) ** alpha
            while k > 1:
                k //= 2
                tree[k] = tree[2 * k] + tree[2 * k + 1]


def updates_until_solved(values: Values, states: np.ndarray, right: np.ndarray, choice, most: int) -> int:
    """Replays what `choice` yields until the values are right; how many updates that took."""
    pairs = list(zip(states.tolist(), right.tolist(), strict=True))
    index, done = next(choice), 0
    while not values.solved():
        if done == most:
            raise UserError(
                f"not learned after {most:,} updates with {len(pairs):,} transitions; allow more (most_updates) or take a "
                "smaller step_size"
            )
        index = choice.send(values.update(*pairs[index]))
        done += 1
    return done


def updates_of_oracle(values: Values, most: int) -> int:
    """In hindsight the best: always the transition after whose update the squared error of all values is least.

    Copies of a transition do the same, so one of each stands for all. Where none would make the error less (linear values only,
    whose shared weight moves all states), the one with the largest temporal-difference error is replayed, or it would stay there.
    """
    pairs, done = [(state, right) for state in range(values.n) for right in (0, 1)], 0
    while not values.solved():
        if done == most:
            raise UserError(
                f"not learned after {most:,} updates of the oracle with {values.n} states; allow more (most_updates) or take "
                "a smaller step_size"
            )
        losses = {pair: values.loss_after(*pair) for pair in pairs}
        best = min(pairs, key=losses.__getitem__)
        if losses[best] >= (values.squares[0] + values.squares[1]) * (1 - 1e-6):
            best = max(pairs, key=lambda pair: abs(values.error(*pair)))
        values.update(*best)
        done += 1
    return done


# --- Figures 1 and 2 ---


def experiment(config: Config, seed: int) -> Findings:
    c, points, counts = config, [], {}
    if not 2 <= c.fewest_states <= c.most_states <= 20:
        raise UserError(
            f"fewest_states {c.fewest_states} and most_states {c.most_states}: allowed is 2 up to 20, which is two million "
            "transitions"
        )
    for n in range(c.fewest_states, c.most_states + 1):
        size = 2 ** (n + 1) - 2
        for kind in ("tabular", "linear"):
            # The same memory and the same initial values for each way of choosing
            states, right = memory(n, np.random.default_rng((seed, n)))
            draws = np.random.default_rng((seed, n, 1))
            choices = {"uniform": uniform(size, draws)}
            if kind == "tabular":
                choices["greedy"] = greedy(size, draws)
            else:
                choices["rank-based"] = rank_based(size, draws, c.rank_alpha)
                choices["proportional"] = proportional(size, draws, c.proportional_alpha, c.priority_offset)

            def values(n: int = n, kind: str = kind) -> Values:
                return Values(n, kind, c, np.random.default_rng((seed, n, 2)))

            found = {
                name: updates_until_solved(values(), states, right, choice, c.most_updates)
                for name, choice in choices.items()
            }
            found["oracle"] = updates_of_oracle(values(), c.most_updates)
            for name, updates in found.items():
                counts[kind, name, n] = updates
                points.append((f"figure_2_{kind}", name, size, updates))
    return Findings(measures(counts, c), points)


def measures(counts: dict[tuple[str, str, int], int], config: Config) -> dict[str, float]:
    """At the most states, the updates and how many times more uniform replay needs; and how both grow with n."""
    sizes = list(range(config.fewest_states, config.most_states + 1))
    found = {}

    def doublings(updates: list[float]) -> float:
        """a in updates ~ 2^(a n), by least squares over all n."""
        return float(np.polyfit(sizes, np.log2(updates), 1)[0]) if len(sizes) > 1 else 0.0

    for kind, name in sorted({(kind, name) for kind, name, _ in counts}):
        label = f"{kind}_{name.replace('-', '_')}"
        updates = [float(max(counts[kind, name, n], 1)) for n in sizes]
        uniform_updates = [float(max(counts[kind, "uniform", n], 1)) for n in sizes]
        found[f"{label}_updates"] = updates[-1]
        if name == "uniform":
            found[f"{label}_doublings_a_state"] = doublings(updates)
        else:
            ratios = [u / v for u, v in zip(uniform_updates, updates, strict=True)]
            found[f"{label}_speedup"] = ratios[-1]
            found[f"{label}_speedup_doublings_a_state"] = doublings(ratios)
    return found


if __name__ == "__main__":
    main("prioritized_dqn", "blind_cliffwalk", Config, experiment)
