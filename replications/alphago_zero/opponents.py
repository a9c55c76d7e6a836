"""Other opponents, games between any two, and Elo ratings from their results.

An opponent has `start(game, games)`, `choose(g)` (the moves in the games g, where it is to move) and `played(g, action)`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyspiel
from scipy.optimize import minimize
from scipy.special import expit

from common.errors import UserError
from replications.alphago_zero.games import Game, winner


def contest(
    game: Game, players: Sequence[Any], games: int, alternate: bool = True
) -> tuple[np.ndarray, list[list[int]]]:
    """Games of two players side by side. -> the first player's results (games,), and each game's moves.

    The first player is Black; with `alternate` in every other game only. Both may be the same.
    """
    states, moves = [game.start() for _ in range(games)], [[] for _ in range(games)]
    both = list(dict.fromkeys(players))
    for player in both:
        player.start(game, games)
    while going := [g for g in range(games) if not states[g].is_terminal()]:
        turn = len(moves[going[0]])
        for number, player in enumerate(players):
            mine = np.array([g for g in going if (g * alternate + turn) % 2 == number], int)
            for g, action in zip(mine, player.choose(mine) if len(mine) else (), strict=True):
                states[g].apply_action(int(action))
                moves[g].append(int(action))
                # not told what ends a game: GNU Go would refuse to repeat a board, which is a draw here
                for other in both if not states[g].is_terminal() else ():
                    other.played(g, int(action))
    results = np.array([winner(state) for state in states])
    return results * (1 - 2 * (np.arange(games) % 2 * alternate)), moves


class MCTS:
    """OpenSpiel's search with random rollouts: the plain player that knows the rules and nothing else."""

    def __init__(self, simulations: int, seed: int, uct_c: float = 2.0):
        self.simulations, self.seed, self.uct_c = simulations, seed, uct_c

    def start(self, game: Game, games: int) -> None:
        rollouts = [pyspiel.RandomRolloutEvaluator(1, self.seed + 2 * g) for g in range(games)]
        self.bots = [
            pyspiel.MCTSBot(
                game.rules, rollout, self.uct_c, self.simulations, 500, True, self.seed + 2 * g + 1, False
            )
            for g, rollout in enumerate(rollouts)
        ]
        self.states = [game.start() for _ in range(games)]

    def choose(self, g: np.ndarray) -> np.ndarray:
        return np.array([self.bots[i].step(self.states[i]) for i in g])

    def played(self, g: int, action: int) -> None:
        self.states[g].apply_action(action)

    def close(self) -> None:
        self.bots = []


GNU_GO = ("--mode", "gtp", "--chinese-rules", "--positional-superko", "--capture-all-dead", "--play-out-aftermath",
          "--never-resign")  # without the last three it passes with dead stones on the board, which count as alive here  # fmt: skip


def gnu_go() -> str | None:
    """Where GNU Go is, if it is installed (Debian: gnugo)."""
    return shutil.which("gnugo") or next(
        (path for path in ("/usr/games/gnugo",) if Path(path).exists()), None
    )


class GnuGo:
    """GNU Go 3.8, a process for each game, each with a seed of its own."""

    def __init__(self, level: int, seed: int):
        self.level, self.seed, self.processes = level, seed, []

    def start(self, game: Game, games: int) -> None:
        self.close()
        self.game, self.turn = game, [0] * games
        for g in range(games):
            command = [gnu_go(), *GNU_GO, "--level", str(self.level), "--seed", str(self.seed + g + 1)]
            pipe = subprocess.PIPE
            self.processes.append(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            )
            for line in (f"boardsize {game.size}", "clear_board", f"komi {game.komi:g}"):
                self.say(g, line)

    def say(self, g: int, command: str) -> str:
        """A command of the Go Text Protocol, and its answer."""
        process = self.processes[g]
        process.stdin.write(command + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        while process.stdout.readline().strip():
            pass
        if not answer.startswith("="):
            raise UserError(
                f"GNU Go answers {command!r} with {answer.strip()!r}; this is written for its version 3.8"
            )
        return answer[1:].strip()

    def choose(self, g: np.ndarray) -> np.ndarray:
        names = {self.game.action_name(action): action for action in range(self.game.actions)}
        return np.array([names[self.say(i, f"reg_genmove {'BW'[self.turn[i] % 2]}").lower()] for i in g])

    def played(self, g: int, action: int) -> None:
        self.say(g, f"play {'BW'[self.turn[g] % 2]} {self.game.action_name(action)}")
        self.turn[g] += 1

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.processes = []


def elo(points: np.ndarray, games: np.ndarray, prior_games: float = 2.0) -> np.ndarray:
    """Ratings by Bayesian logistic regression (Methods, "Evaluation"): p(a beats b) = 1 / (1 + 10^((e(b) - e(a)) / 400)).

    points (n, n): what a had against b, a draw half a point; games (n, n): how many they played -> (n,), the first being 0.
    The prior is `prior_games` draws of each player against one of rating 0, so that who won all has a finite rating.
    """
    scale = np.log(10) / 400

    def loss(ratings: np.ndarray) -> tuple[float, np.ndarray]:
        off = scale * (ratings[:, None] - ratings[None, :])
        fit = -(points * -np.logaddexp(0, -off)).sum()
        gradient = -(points * expit(-off)).sum(axis=1) + (points * expit(-off)).sum(axis=0)
        half = prior_games / 2
        fit += half * (np.logaddexp(0, -scale * ratings) + np.logaddexp(0, scale * ratings)).sum()
        gradient += half * (expit(scale * ratings) - expit(-scale * ratings))
        return fit, scale * gradient

    found = minimize(loss, np.zeros(len(points)), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return found - found[0]


def tournament(game: Game, players: Sequence[Any], games: int) -> tuple[np.ndarray, np.ndarray]:
    """Each against each. -> (points (n, n) of a against b, a draw half a point; games (n, n))."""
    points, played = np.zeros((2, len(players), len(players)))
    for a in range(len(players)):
        for b in range(a):
            won = (contest(game, [players[a], players[b]], games)[0] + 1).sum() / 2
            points[a, b], points[b, a] = won, games - won
            played[a, b] = played[b, a] = games
    return points, played
