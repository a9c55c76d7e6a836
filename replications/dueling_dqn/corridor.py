"""The corridor of Wang, Schaul, Hessel, van Hasselt, Lanctot & de Freitas, "Dueling Network Architectures for Deep Reinforcement
Learning", ICML 2016, section 4.1: policy evaluation with 5, 10 and 20 actions (Figure 3).

Three corridors in a row: 10 states up, 50 to the right, 10 up. Four actions move, the others do nothing. A policy that nearly always
takes the best action is evaluated by temporal-difference learning, with a network of one stream and with a dueling one; measured is
the squared error of all its action values against the exact ones. `paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.dueling_dqn.corridor --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's (section 4.1), or fill-ins that paper.yaml names."""

    vertical: int = 10  # states of each vertical corridor
    horizontal: int = 50  # states of the horizontal one
    fewest_actions: int = 5  # 4 moves and no-ops
    more_actions: int = 10
    most_actions: int = 20
    epsilon: float = 0.001  # of the policy that acts and is evaluated
    hidden_units: int = 50  # of both hidden layers of the network with one stream
    stream_units: int = 25  # of the hidden layer of each stream
    discount: float = 0.99
    learning_rate: float = 0.4  # of stochastic gradient descent on half the squared error
    updates: int = 50_000


MOVES = ((0, 1), (0, -1), (-1, 0), (1, 0))  # up, down, left, right


# --- the problem, exactly ---


@dataclass(frozen=True)
class Corridor:
    """next_state, policy, reward: (states, actions); values: the exact Q^pi, (states - 1, actions), without the last state.

    States are numbered along the way from the start, lower left, to the end, upper right, which has the only reward, 1.
    """

    next_state: np.ndarray
    policy: np.ndarray
    reward: np.ndarray
    values: np.ndarray


def make_corridor(actions: int, config: Config) -> Corridor:
    v, h = config.vertical, config.horizontal
    cells = (
        [(0, y) for y in range(v)] + [(x, v - 1) for x in range(1, h + 1)] + [(h, v + y) for y in range(v)]
    )
    number, states = {cell: i for i, cell in enumerate(cells)}, len(cells)
    next_state = np.tile(np.arange(states)[:, None], (1, actions))  # no-ops and walls
    for i, (x, y) in enumerate(cells):
        for a, (dx, dy) in enumerate(MOVES):
            next_state[i, a] = number.get((x + dx, y + dy), i)
    best = (next_state == np.arange(states)[:, None] + 1).argmax(axis=1)
    policy = np.full((states, actions), config.epsilon / actions)
    policy[np.arange(states), best] += 1 - config.epsilon
    reward = (next_state == states - 1).astype(float)
    # V = sum_a pi (r + discount V(s')), a linear system over the states that are not the end
    into = np.zeros((states, states))
    for a in range(actions):
        np.add.at(into, (np.arange(states), next_state[:, a]), policy[:, a])
    inner = into[:-1, :-1]
    v_pi = np.linalg.solve(np.eye(states - 1) - config.discount * inner, (policy * reward).sum(axis=1)[:-1])
    values = reward + config.discount * np.append(v_pi, 0.0)[next_state]
    return Corridor(next_state, policy, reward, values[:-1])


# --- the two networks ---


class Network:
    """Three layers on a one-hot state. U(-1/sqrt(fan_in), 1/sqrt(fan_in)) at the start.

    With one stream the third layer gives an output for each action. Dueling: half of the second layer's units lead to V(s), half
    to A(s, a), and Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a'), Equation 9.
    """

    def __init__(self, states: int, actions: int, dueling: bool, config: Config, rng: np.random.Generator):
        units = 2 * config.stream_units if dueling else config.hidden_units
        self.dueling, self.split = dueling, config.stream_units

        def layer(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
            limit = inputs**-0.5
            return rng.uniform(-limit, limit, (inputs, outputs)), rng.uniform(-limit, limit, outputs)

        self.w1, self.b1 = layer(states, config.hidden_units)
        self.w2, self.b2 = layer(config.hidden_units, units)
        if dueling:
            self.wv, self.bv = layer(self.split, 1)
            self.wa, self.ba = layer(self.split, actions)
        else:
            self.w3, self.b3 = layer(units, actions)

    def hidden(self, states: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        first = np.maximum(self.w1[states] + self.b1, 0)
        return first, np.maximum(first @ self.w2 + self.b2, 0)

    def output(self, second: np.ndarray) -> np.ndarray:
        if not self.dueling:
            return second @ self.w3 + self.b3
        value = second[..., : self.split] @ self.wv + self.bv
        advantages = second[..., self.split :] @ self.wa + self.ba
        return value + advantages - advantages.mean(axis=-1, keepdims=True)

    def values(self, states: np.ndarray | int) -> np.ndarray:
        """states: (B,) int, or one -> (B, actions) or (actions,) float64."""
        return self.output(self.hidden(states)[1])

    def update(self, state: int, action: int, target: float, learning_rate: float) -> None:
        """One step down the gradient of (target - Q(state, action))^2 / 2, the target held fixed."""
        first, second = self.hidden(state)
        q = self.output(second)
        step = learning_rate * (target - q[action])
        if self.dueling:
            to_advantages = np.full(len(q), -step / len(q))
            to_advantages[action] += step
            v, a = second[: self.split], second[self.split :]
            to_second = np.concatenate([self.wv[:, 0] * step, self.wa @ to_advantages])
            self.wv[:, 0] += v * step
            self.bv += step
            self.wa += np.outer(a, to_advantages)
            self.ba += to_advantages
        else:
            to_second = self.w3[:, action] * step
            self.w3[:, action] += second * step
            self.b3[action] += step
        to_second *= second > 0
        to_first = (self.w2 @ to_second) * (first > 0)
        self.w2 += np.outer(first, to_second)
        self.b2 += to_second
        self.w1[state] += to_first
        self.b1 += to_first


# --- policy evaluation ---


def squared_error(network: Network, corridor: Corridor) -> float:
    """The sum over states and actions of (Q(s, a) - Q^pi(s, a))^2."""
    return float(((network.values(np.arange(len(corridor.values))) - corridor.values) ** 2).sum())


def evaluate_policy(
    corridor: Corridor, network: Network, config: Config, rng: np.random.Generator
) -> list[tuple[int, float]]:
    """(updates, squared error) at about ten places a decade, while the policy walks and each of its steps is learned from once."""
    end, state, errors = len(corridor.next_state) - 1, 0, []
    marks = set(np.unique(np.geomspace(1, config.updates, 48).round().astype(int)).tolist())
    cumulative = corridor.policy.cumsum(axis=1)
    for done, draw in enumerate(rng.random(config.updates), start=1):
        action = min(int(np.searchsorted(cumulative[state], draw, side="right")), cumulative.shape[1] - 1)
        after, target = corridor.next_state[state, action], corridor.reward[state, action]
        if after != end:  # r + discount sum_a' pi(a' | s') Q(s', a')
            target += config.discount * (corridor.policy[after] @ network.values(after))
        network.update(state, action, target, config.learning_rate)
        state = 0 if after == end else after
        if done in marks:
            errors.append((done, squared_error(network, corridor)))
    return errors


def experiment(config: Config, seed: int) -> Findings:
    measures, points = {}, []
    if min(config.vertical, config.horizontal, config.updates, config.hidden_units, config.stream_units) < 1:
        raise UserError("vertical, horizontal, updates, hidden_units and stream_units must be 1 or more")
    if config.fewest_actions < len(MOVES):
        raise UserError(f"fewest_actions {config.fewest_actions}: the moves alone are {len(MOVES)}")
    for actions in (config.fewest_actions, config.more_actions, config.most_actions):
        corridor, last = make_corridor(actions, config), {}
        for index, name in enumerate(("single", "dueling")):
            network = Network(
                len(corridor.next_state),
                actions,
                name == "dueling",
                config,
                np.random.default_rng((seed, actions, index)),
            )
            # Both walk the same way
            errors = evaluate_policy(corridor, network, config, np.random.default_rng((seed, actions)))
            points += [(f"actions_{actions}", name, updates, error) for updates, error in errors]
            last[name] = measures[f"{name}_{actions}"] = errors[-1][1]
            if not np.isfinite(last[name]):
                raise UserError(
                    f"the {name} network diverged with {actions} actions; take a smaller learning_rate"
                )
        measures[f"ratio_{actions}"] = last["single"] / last["dueling"]
    measures["ratio_growth"] = (
        measures[f"ratio_{config.most_actions}"] / measures[f"ratio_{config.more_actions}"]
    )
    return Findings(measures, points)


if __name__ == "__main__":
    main("dueling_dqn", "corridor", Config, experiment)
