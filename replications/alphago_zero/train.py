"""AlphaGo Zero (2017): Silver et al., "Mastering the game of Go without human knowledge", Nature 550:354-359.

One network gives moves a probability p and a position a value v. A tree search guided by it is the stronger player; the
network learns to predict that search's moves and the games' winners; the search gets the better network. Nothing else goes in
but the rules. `paper.yaml` beside this file lists every constant with its source, and every point where this script differs.

Not in this file: the games' rules and planes (games.py, from OpenSpiel), the tree's arrays (trees.py), games in flight and the window
(records.py), processes and checkpoints (plumbing.py), other opponents (opponents.py), what is measured at the end (measures.py).

Units: a game is one game of self-play; a move is one player's; a simulation is one descent of the search; an update is one step
of the optimiser. Values are from the side of the player who is to move, unless a name says Black's.

    ./run python -m replications.alphago_zero.train --task go_3x3 --seed 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.learning.workers import share_parameters, shared_zeros
from common.runs.laptop import Findings, main
from replications.alphago_zero.games import Game, make_game, planes, winner
from replications.alphago_zero.opponents import contest
from replications.alphago_zero.plumbing import SGD, Log, check_numbers, for_search, playing, resumable
from replications.alphago_zero.records import GamesInFlight, Positions, Record, Window, resignation_values
from replications.alphago_zero.trees import Trees

# --- constants ---


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's where it says them, at its 20 blocks; the tasks of paper.yaml scale them to their boards."""

    game: Literal["go", "tic_tac_toe"] = "go"
    board: int = 19  # lines a side
    komi: float = 7.5  # points; Methods, "Evaluation"
    longest_game: int = 0  # moves; 0: twice the number of points (722 at 19x19); Methods, "Domain knowledge"

    blocks: int = 19  # residual blocks after the first convolution; Methods, "Neural network architecture"
    filters: int = 256
    value_units: int = 256  # of the value head's hidden layer
    history: int = 8  # boards that the network sees
    residual: bool = True  # False: plain convolutions; Figure 4
    dual: bool = True  # one network for p and v; False: one for each; Figure 4

    simulations: int = 1_600  # of a move; Methods, "Self-play"
    c_puct: float = 1.5  # weight of the prior in the search; the paper does not print it
    noise_weight: float = 0.25  # epsilon of P <- (1 - epsilon) p + epsilon eta at the root; Methods
    noise_alpha: float = 0.03  # eta ~ Dir(alpha)
    symmetries: bool = True  # a random rotation or reflection of each leaf and each position learned from
    temperature_moves: int = 30  # first moves of a game, drawn in proportion to visits; then the most visited
    played_out: float = 0.1  # share of games without resignation
    false_resignations: float = 0.05  # of games that would have been won, at most this share may be resigned

    games: int = 4_900_000  # of self-play, in all
    games_per_checkpoint: int = 7_000  # 4.9 million games over 700 checkpoints
    games_at_once: int = 64  # of a worker, side by side
    workers: int = 1  # processes of self-play; 1: no process but this one
    window: int = 500_000  # newest games learned from
    batch_size: int = 2_048  # positions; Methods, "Optimization"
    updates_per_checkpoint: int = 1_000
    learning_rate: float = 0.01  # a tenth from 4/7 of all updates on, a hundredth from 6/7; Methods
    momentum: float = 0.9
    l2: float = 0.0001  # c of Equation 1

    gate: bool = True  # a checkpoint plays against the best player, and takes its place if it is better
    gate_games: int = 400  # Methods, "Evaluator"
    gate_share: float = 0.55  # of points, that a new best player has more of
    opening_moves: int = 0  # of games between players, drawn in proportion to visits: games differ
    test_simulations: int = 1_600  # of a move when players are measured
    test_games: int = 0  # of each pair in the tournament, and against each other opponent

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def checkpoints(self) -> int:
        return -(-self.games // self.games_per_checkpoint)


# --- network ---


class Convolution(nn.Sequential):
    """A convolution and its batch normalisation. PyTorch's default initialisation: the paper states none."""

    def __init__(self, inputs: int, filters: int, width: int):
        convolution = nn.Conv2d(inputs, filters, width, padding=width // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(filters))


class Block(nn.Module):
    def __init__(self, filters: int, residual: bool):
        super().__init__()
        self.first, self.second = Convolution(filters, filters, 3), Convolution(filters, filters, 3)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(F.relu(self.first(x)))
        return F.relu(y + x if self.residual else y)


class Network(nn.Module):
    """(p, v) = f(s): a tower of residual blocks under two heads; Methods, "Neural network architecture"."""

    def __init__(self, config: Config, game: Game):
        super().__init__()

        def tower() -> nn.Module:
            blocks = [Block(config.filters, config.residual) for _ in range(config.blocks)]
            return nn.Sequential(Convolution(2 * config.history + 1, config.filters, 3), nn.ReLU(), *blocks)

        self.tower = tower()
        self.value_tower = None if config.dual else tower()
        self.policy = nn.Sequential(
            Convolution(config.filters, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * game.cells, game.actions)
        )  # fmt: skip
        self.value = nn.Sequential(
            Convolution(config.filters, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(game.cells, config.value_units),
            nn.ReLU(), nn.Linear(config.value_units, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x: (B, 2 T + 1, N, N) -> logits of the moves (B, A), values (B,) in [-1, 1] of who is to move."""
        seen = self.tower(x)
        of_value = seen if self.value_tower is None else self.value_tower(x)
        return self.policy(seen), self.value(of_value).squeeze(1)


def draw_turns(count: int, config: Config, rng: np.random.Generator) -> np.ndarray:
    """Which of the eight symmetries, for each of `count` positions; all 0, the identity, without symmetries."""
    return rng.integers(8, size=count) if config.symmetries else np.zeros(count, np.int64)


@torch.inference_mode()
def evaluate(
    network: nn.Module, game: Game, history: np.ndarray, colours: np.ndarray, legal: np.ndarray, turns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(d(p), v) = f(d(s)): each position is turned by d, and the moves' probabilities are turned back.

    history (B, T, cells), colours (B,), legal (B, A) bool, turns (B,): which of the eight symmetries
    -> P(s, a) (B, A), -inf where a is illegal, else summing to 1; v (B,), of who is to move.
    """
    seen = torch.from_numpy(planes(game.turn(history, turns), colours, game.size))
    logits, values = network(seen.contiguous(memory_format=torch.channels_last))  # the same, computed faster
    logits = np.take_along_axis(logits.numpy(), game.to_original[turns], axis=1)
    logits = np.where(legal, logits, -np.inf)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.where(legal, p, -np.inf), values.numpy()


# --- learning rule ---


def loss(
    logits: torch.Tensor, values: torch.Tensor, policies: torch.Tensor, outcomes: torch.Tensor,
    parameters: Sequence[torch.Tensor], l2: float,
) -> torch.Tensor:  # fmt: skip
    """Equation 1: l = (z - v)^2 - pi^T log p + c |theta|^2, the first two averaged over the minibatch.

    logits, policies pi (B, A); values v, outcomes z (B,) of who is to move -> scalar. Both terms have weight 1.
    """
    squares = sum((p * p).sum() for p in parameters)
    return F.mse_loss(values, outcomes) + F.cross_entropy(logits, policies) + l2 * squares


def learning_rate(update: int, config: Config) -> float:
    """Extended Data Table 3: 10^-2, then 10^-3 after 400 of 700 thousand updates, 10^-4 after 600."""
    done = update / (config.updates_per_checkpoint * config.checkpoints)
    return config.learning_rate * (1 if done < 4 / 7 else 0.1 if done < 6 / 7 else 0.01)


def update(
    network: Network, optimiser: SGD, game: Game, batch: Positions, turns: np.ndarray, l2: float, rate: float
) -> float:
    """One gradient step on a minibatch, each position turned by one of the eight symmetries, and its moves with it."""
    history, policies = game.turn(batch.history, turns), game.turn(batch.policies, turns)
    logits, values = network(torch.from_numpy(planes(history, batch.colours, game.size)))
    targets = torch.from_numpy(policies), torch.from_numpy(batch.outcomes)
    found = loss(logits, values, *targets, list(network.parameters()), l2)
    optimiser.gradient.zero_()
    found.backward()
    optimiser.step(rate)
    return found.item()


# --- search: Figure 2 ---


def expand(trees: Trees, network: nn.Module, g: np.ndarray, nodes: np.ndarray, turns: np.ndarray) -> np.ndarray:  # fmt: skip
    """Figure 2b: the network gives each of these nodes its priors; returns its values, (B,), of who is to move there."""
    pairs = zip(g.tolist(), nodes.tolist(), strict=True)
    legal = np.array([trees.states[i][node].legal_actions_mask() for i, node in pairs], bool)
    history, colours = trees.history[g, nodes], trees.colour[g, nodes]
    trees.prior[g, nodes], values = evaluate(network, trees.game, history, colours, legal, turns)
    return values


def simulate(trees: Trees, network: nn.Module, g: np.ndarray, c_puct: float, turns: np.ndarray) -> None:
    """One simulation in each of the games g, their roots expanded."""
    # Figure 2a, select: a_t = argmax_a Q(s_t, a) + U(s_t, a), down to a leaf
    path, rows, at, here = [], np.arange(len(g)), g, np.zeros(len(g), np.int64)
    parents, actions, leaves = (np.zeros(len(g), np.int64) for _ in range(3))
    while len(rows):
        n = trees.visits[at, here]
        q = trees.total[at, here] / np.maximum(n, 1)  # 0 where there was no visit
        # U = c P sqrt(sum_b N(b)) / (1 + N(a)); at a node without visits all would be 0, and the largest P comes first
        root = np.sqrt(np.maximum(n.sum(axis=1, keepdims=True), 1e-8))
        a = (q + c_puct * trees.prior[at, here] * root / (1 + n)).argmax(axis=1)
        path.append((rows, at, here, a))
        below = trees.child[at, here, a]
        parents[rows], actions[rows], leaves[rows] = here, a, below
        inside = (below >= 0) & ~trees.over[at, below]
        rows, at, here = rows[inside], at[inside], below[inside]
    # Figure 2b, expand and evaluate; a game that is over has its true result and needs no network
    new = leaves < 0
    if new.any():
        leaves[new] = trees.add(g[new], parents[new], actions[new])
    black = trees.result[g, leaves].astype(np.float32)
    ask = np.flatnonzero(~trees.over[g, leaves])
    if len(ask):
        values = expand(trees, network, g[ask], leaves[ask], turns[ask])
        black[ask] = values * trees.colour[g[ask], leaves[ask]]
    # Figure 2c, backup: each edge counts the value for the player who chose it
    for rows, at, here, a in path:
        trees.visits[at, here, a] += 1
        trees.total[at, here, a] += black[rows] * trees.colour[at, here]


def search(
    trees: Trees, g: np.ndarray, network: nn.Module, config: Config, rng: np.random.Generator, simulations: int,
    noise: bool = False,
) -> np.ndarray:  # fmt: skip
    """Searches the games g (B,); returns the visits of their moves, (B, A). What an earlier search counted stays.

    Looking at a new root is its first simulation. noise: P <- (1 - epsilon) P + epsilon eta at the roots, for self-play.
    """
    trees.grow(max(len(trees.states[i]) for i in g) + simulations)
    is_new = (trees.prior[g, 0] == 0).all(axis=1)
    if is_new.any():
        new = g[is_new]
        expand(trees, network, new, np.zeros(len(new), np.int64), draw_turns(len(new), config, rng))
    if noise:
        eta = rng.standard_gamma(config.noise_alpha, size=(len(g), trees.game.actions)).astype(np.float32)
        eta *= np.isfinite(trees.prior[g, 0])
        eta /= np.maximum(eta.sum(axis=1, keepdims=True), 1e-30)
        trees.prior[g, 0] = (1 - config.noise_weight) * trees.prior[g, 0] + config.noise_weight * eta
    for simulation in range(simulations):
        active = g if simulation < simulations - 1 else g[~is_new]
        if len(active):
            simulate(trees, network, active, config.c_puct, draw_turns(len(active), config, rng))
    visits = trees.visits[g, 0].copy()
    none = visits.sum(axis=1) == 0  # one simulation only looks at the root
    visits[none] = np.maximum(trees.prior[g[none], 0], 0)
    return visits


def move_probabilities(visits: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """pi(a) = N(a)^(1/tau) / sum_b N(b)^(1/tau), (B, A): tau = 1 where `sample` (B,), else tau -> 0: all on the most visited."""
    most = np.eye(visits.shape[1], dtype=np.float32)[visits.argmax(axis=1)]
    return np.where(sample[:, None], visits / visits.sum(axis=1, keepdims=True), most)


def draw(pi: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """a ~ pi, (B, A) -> (B,)."""
    sums = pi.cumsum(axis=1)
    return (sums > rng.random((len(pi), 1)) * sums[:, -1:]).argmax(axis=1)


# --- self-play ---


class SelfPlay(GamesInFlight):
    """Games of the best player against itself, side by side: a worker of common/learning/workers.py.

    resign_below (2,): v_resign of Black and White.
    """

    def __init__(self, config: Config, network: nn.Module, resign_below: torch.Tensor, seed: int, index: int):
        trees = Trees(make_game(config), config.games_at_once, config.history, config.simulations + 1)
        super().__init__(trees, index, np.random.default_rng([seed, 1 + index]), config.played_out)
        self.config, self.network, self.resign_below = config, network, resign_below

    def work(self) -> list[Record]:
        """One move in each game; returns those that ended. A new one begins in their place."""
        c, trees, ended, games = self.config, self.trees, [], np.arange(self.config.games_at_once)
        visits = search(trees, games, self.network, c, self.rng, c.simulations, noise=True)
        pi = move_probabilities(visits, np.array([len(moves) < c.temperature_moves for moves in self.moves]))
        actions, values = draw(pi, self.rng), trees.values(games)
        # "resigns if its root value and best child value are lower than a threshold value v_resign"
        worth = np.maximum(values, trees.values(games, visits.argmax(axis=1)))
        for g in games:
            player = self.note(g, actions[g], pi[g], values[g], worth[g])
            resigned = self.may_resign[g] and worth[g] < self.resign_below[player]
            if not resigned:
                trees.advance(g, actions[g])
            if resigned or trees.over[g, 0]:
                result = 2 * player - 1 if resigned else winner(trees.states[g][0])
                ended.append(self.end(g, result, resigned))
        return ended


# --- the evaluator ---


class Player:
    """The search as a player, without noise: the most visited move. One simulation: the network's most probable move.

    opening_moves: of a game, drawn in proportion to visits. notes: (visits, value) of each move made, by game and ply.
    """

    def __init__(
        self, config: Config, network: nn.Module, simulations: int, rng: np.random.Generator, opening_moves: int = 0
    ):  # fmt: skip
        self.config, self.network, self.simulations, self.rng = config, network, simulations, rng
        self.opening_moves = opening_moves

    def start(self, game: Game, games: int) -> None:
        self.trees = Trees(game, games, self.config.history, self.simulations + 1)
        self.plies = np.zeros(games, int)
        self.notes: list[dict[int, tuple[list[int], float]]] = [{} for _ in range(games)]

    def choose(self, g: np.ndarray) -> np.ndarray:
        """The moves in the games g, where this player is to move."""
        visits = search(self.trees, g, self.network, self.config, self.rng, self.simulations)
        for i, n, value in zip(g, visits, self.trees.values(g), strict=True):
            self.notes[i][self.plies[i]] = (n.astype(int).tolist(), float(value))
        return draw(move_probabilities(visits, self.plies[g] < self.opening_moves), self.rng)

    def played(self, g: int, action: int) -> None:
        self.trees.advance(g, action)
        self.plies[g] += 1


def is_better(results: np.ndarray, share: float) -> bool:
    """More than this share of the points, a draw counting half: 22 of 40 are not more than 55 %."""
    return bool((results + 1).sum() / 2 > share * len(results) + 1e-9)


# --- training: Figure 1 ---


def train(config: Config, seed: int, kept: Path | None = None) -> tuple[Game, Network, Log]:
    """The best player's network, for search, and what was logged. kept: a folder to go on from, exactly, if stopped."""
    c, game, rng = config, make_game(config), np.random.default_rng([seed, 0])
    torch.manual_seed(seed)
    learner = Network(c, game)
    best, optimiser = for_search(learner), SGD(learner, c.momentum)
    weights = share_parameters(best)  # with the processes of self-play
    resign_below = shared_zeros(2, dtype=torch.float64).fill_(-np.inf)
    window, log = Window(game, c.window, c.history), Log(c.checkpoints)
    log.keep(0, best)
    empty = Trees(game, 1, c.history, 1)  # the empty board, whose value is logged
    with playing(c.workers, lambda i: SelfPlay(c, best, resign_below, seed, i)) as selfplay:
        state = {"rng": rng, "learner": learner, "velocity": optimiser.velocity, "weights": weights, "log": log,
                 "resign_below": resign_below, "window": window, "selfplay": selfplay}  # fmt: skip
        for number in resumable(kept, c.checkpoints, state):
            # Figure 1a, self-play: the best player plays games s_1, ..., s_T against itself and keeps (s_t, pi_t, z_t)
            until = min(c.games, number * c.games_per_checkpoint)
            records = selfplay.play(-(-until // c.workers))
            window.add(records)
            log.add_games(records)
            resign_below.copy_(torch.from_numpy(resignation_values(*log.played_out(), c.false_resignations)))
            # Figure 1b: the network learns from positions of the newest games, drawn uniformly
            learner.train()
            losses = []
            for step in range((number - 1) * c.updates_per_checkpoint, number * c.updates_per_checkpoint):
                batch, turns = window.sample(rng, c.batch_size), draw_turns(c.batch_size, c, rng)
                losses.append(update(learner, optimiser, game, batch, turns, c.l2, learning_rate(step, c)))
            # Methods, "Evaluator": the checkpoint replaces the best player if it wins more than 55 % of the games
            candidate, results = for_search(learner), None
            if c.gate:
                players = [Player(c, net, c.simulations, rng, c.opening_moves) for net in (candidate, best)]
                results = contest(game, players, c.gate_games)[0]
            if results is None or is_better(results, c.gate_share):
                best.load_state_dict(candidate.state_dict())
            log.add(until, records, losses, results, expand(empty, best, *np.zeros((3, 1), int))[0])
            log.keep(number, best)
    return game, best, log


def experiment(config: Config, seed: int, kept: Path | None = None) -> Findings:
    """Trains, then measures what the claims of paper.yaml are about."""
    from replications.alphago_zero.measures import measure

    return measure(config, *train(config, seed, kept), seed)


if __name__ == "__main__":
    main("alphago_zero", "train", Config, experiment, keeps=True, files=("model.safetensors", "board.json"))
