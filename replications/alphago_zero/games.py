"""The games: rules from OpenSpiel, boards as arrays, and the planes that a network sees.

OpenSpiel's Go differs from the paper's: a board that was there before ends the game as a draw (positional superko, the
repeating move is legal), where the paper forbids it. Suicide is illegal; the paper has no word on it. The board is scored as it
stands, by area (Tromp-Taylor), so that dead stones count as alive until they are captured: as in the paper's self-play. The
paper's measured games are scored by Chinese rules.

Boards are (cells,) int8 in OpenSpiel's order (row 0 is rank 1): +1 for Black, who moves first, -1 for White, 0 for empty.
In tic-tac-toe X is Black.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyspiel
from open_spiel.python.observation import make_observation

from common.errors import UserError

BOARDS = (2, 9)  # sizes of a Go board, smallest and largest
LETTERS = "abcdefghjklmnopqrst"  # of Go's columns: there is no i


class Game:
    """size: of the board's side; cells: size^2; actions: cells, and in Go the pass, which comes last.

    to_transformed: (8, actions) int64, the eight rotations and reflections: transformed[j] = original[to_transformed[s, j]].
    to_original: their inverses. longest: plies after which a game is over. UserError for a size, komi or length that cannot be.
    """

    def __init__(self, name: str, size: int = 3, komi: float = 0.0, longest: int = 0):
        self.name, self.size, self.komi = name, size, komi
        if name == "go":
            low, high = BOARDS
            if not low <= size <= high:
                raise UserError(f"board {size}: a Go board has {low} to {high} lines a side here")
            if not -(size**2) - 1 < komi < size**2 + 1:
                raise UserError(
                    f"komi {komi:g}: on a board of {size**2} points it lies within -{size**2} to {size**2}"
                )
            if float(komi).is_integer():
                raise UserError(
                    f"komi {komi:g}: a whole number allows draws, which are not in the paper's Go; use {komi - 0.5:g} or {komi + 0.5:g}"
                )
            if longest and longest < 2:
                raise UserError(
                    f"longest_game {longest}: at least 2 moves, or 0 for twice the number of points"
                )
            self.longest = longest or 2 * size**2
            self.rules = pyspiel.load_game(
                "go", {"board_size": size, "komi": float(komi), "max_game_length": self.longest}
            )
        elif name == "tic_tac_toe":
            if size != 3:
                raise UserError(f"board {size}: tic-tac-toe has 3 lines a side")
            self.rules, self.longest = pyspiel.load_game("tic_tac_toe"), 9
        else:
            raise UserError(f"game {name!r}: there are go and tic_tac_toe")
        self.cells, self.actions = size**2, self.rules.num_distinct_actions()
        square = np.arange(self.cells).reshape(size, size)
        turned = [np.rot90(square, k) for k in range(4)]
        boards = [board.ravel() for turn in turned for board in (turn, turn[:, ::-1])]
        passes = np.arange(self.cells, self.actions)
        self.to_transformed = np.stack([np.concatenate([board, passes]) for board in boards])
        self.to_original = np.argsort(self.to_transformed, axis=1)
        self._observation = make_observation(self.rules)

    def start(self) -> Any:
        """An OpenSpiel state of the empty board."""
        return self.rules.new_initial_state()

    def board(self, state: Any) -> np.ndarray:
        """(cells,) int8: what stands on the board."""
        self._observation.set_from(state, 0)
        planes = self._observation.tensor[: 3 * self.cells].reshape(3, self.cells)
        black, white = (planes[0], planes[1]) if self.name == "go" else (planes[2], planes[1])
        return (black - white).astype(np.int8)

    def turn(self, values: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """values of cells or actions, (B, ..., cells or actions), each turned by one of the eight symmetries, turns (B,)."""
        order = self.to_transformed[turns, : values.shape[-1]]
        shape = (len(values), *(1,) * (values.ndim - 2), values.shape[-1])
        return np.take_along_axis(values, np.broadcast_to(order.reshape(shape), values.shape), axis=-1)

    def replay(self, actions: Any) -> tuple[Any, list[np.ndarray]]:
        """The state after these actions, and the boards on the way, the empty one first and the last one last."""
        state = self.start()
        boards = [self.board(state)]
        for action in actions:
            state.apply_action(int(action))
            boards.append(self.board(state))
        return state, boards

    def action_name(self, action: int) -> str:
        """ "c3", or "pass"; columns and rows as on a Go board."""
        if action >= self.cells:
            return "pass"
        return f"{LETTERS[action % self.size]}{action // self.size + 1}"


def make_game(config: Any) -> Game:
    return Game(config.game, config.board, config.komi, config.longest_game)


def colour(state: Any) -> int:
    """+1 where Black is to move, -1 for White; also of a state where the game is over: who would be next."""
    return 1 - 2 * (state.move_number() % 2)


def winner(state: Any) -> int:
    """+1 Black, -1 White, 0 a draw: the true result of a game that is over."""
    return int(state.returns()[0])


def planes(history: np.ndarray, colours: np.ndarray, size: int) -> np.ndarray:
    """What the network sees, from the side of who is to move: X_t, Y_t, X_t-1, Y_t-1, ..., C (Methods, "Neural network
    architecture"): own stones, the other's, of the last boards, the newest first; C is all 1 where Black is to move, else 0.

    history: (B, T, cells) int8, zeros before the game began; colours: (B,) +1 or -1 -> (B, 2 T + 1, size, size) float32.
    """
    batch, times, cells = history.shape
    own = history * colours[:, None, None].astype(np.int8)
    found = np.empty((batch, 2 * times + 1, cells), np.float32)
    found[:, 0:-1:2] = own == 1
    found[:, 1::2] = own == -1
    found[:, -1] = (colours == 1)[:, None]
    return found.reshape(batch, -1, size, size)


def sgf(game: Game, actions: Any, result: int, black: str, white: str, notes: Any = ()) -> str:
    """A Go game as SGF, which any Go program opens. notes: a comment for each move."""
    letters = "abcdefghi"
    end = {1: "B+", -1: "W+", 0: "Draw"}[result]
    head = f"(;GM[1]FF[4]CA[UTF-8]RU[Tromp-Taylor]SZ[{game.size}]KM[{game.komi:g}]PB[{black}]PW[{white}]RE[{end}]"
    moves = []
    for ply, action in enumerate(actions):
        row, column = divmod(int(action), game.size)
        point = "" if action >= game.cells else letters[column] + letters[game.size - 1 - row]
        comment = f"C[{notes[ply]}]" if ply < len(notes) and notes[ply] else ""
        moves.append(f";{'BW'[ply % 2]}[{point}]{comment}")
    return head + "".join(moves) + ")\n"
