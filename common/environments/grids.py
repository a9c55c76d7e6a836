"""Gymnasium's small tasks on a grid (FrozenLake, CliffWalking, Taxi): where each state lies, what each cell is, a picture.

Read from the environment's own description, so that page and film show the world that was played.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import gymnasium
import numpy as np

TASKS = ("FrozenLake-v1", "CliffWalking-v1", "Taxi-v4")
ACTIONS = {  # Gymnasium's documentation
    "FrozenLake-v1": ("left", "down", "right", "up"),
    "CliffWalking-v1": ("up", "right", "down", "left"),
    "Taxi-v4": ("down", "up", "right", "left", "pick up", "drop off"),
}
COLOURS = {
    ".": (245, 245, 245),
    "S": (205, 220, 245),
    "G": (150, 205, 150),
    "H": (90, 110, 140),
    "C": (130, 70, 50),
}


@dataclass(frozen=True)
class Grid:
    """cells: a letter each, row by row: "." free, S start, G goal, H hole, C cliff; of Taxi R, G, Y, B are its stands.

    views: names of the several values that a cell has, one for each passenger and destination in Taxi; (S,) cell and view of a state.
    walls: (row, column) with a wall to their right.
    """

    rows: int
    columns: int
    cells: str
    actions: tuple[str, ...]
    views: tuple[str, ...]
    cell_of: tuple[int, ...]
    view_of: tuple[int, ...]
    walls: tuple[tuple[int, int], ...] = ()


def grid_of(env_id: str) -> Grid | None:
    """None for a task that is on no grid."""
    if env_id not in TASKS:
        return None
    env = gymnasium.make(env_id).unwrapped
    states, actions = int(env.observation_space.n), ACTIONS[env_id]
    if env_id == "Taxi-v4":
        grid = _taxi(env, states, actions)
    else:
        if env_id == "FrozenLake-v1":
            rows, columns = env.desc.shape
            cells = b"".join(env.desc.ravel()).decode().replace("F", ".")
        else:
            rows, columns = env.shape
            kinds = np.where(env._cliff, "C", ".").ravel()
            kinds[[env.start_state_index, states - 1]] = "S", "G"
            cells = "".join(kinds)
        grid = Grid(rows, columns, cells, actions, ("",), tuple(range(states)), (0,) * states)
    env.close()
    return grid


def _taxi(env, states: int, actions: tuple[str, ...]) -> Grid:
    """A state is the taxi's cell, where the passenger is (a stand, or in the taxi) and which stand is the destination."""
    rows, columns, stands = 5, 5, "RGYB"
    cells = ["."] * (rows * columns)
    for name, (row, column) in zip(stands, env.locs, strict=True):
        cells[row * columns + column] = name
    walls = [
        (row, column)
        for row in range(rows)
        for column in range(columns - 1)
        if env.desc[1 + row, 2 * column + 2] == b"|"
    ]
    where = [tuple(int(part) for part in env.decode(state)) for state in range(states)]
    views = tuple(
        f"passenger {'in the taxi' if p == 4 else 'at ' + stands[p]}, to {stands[d]}"
        for p in range(5)
        for d in range(4)
    )
    return Grid(
        rows, columns, "".join(cells), actions, views,
        tuple(row * columns + column for row, column, _, _ in where),
        tuple(4 * passenger + destination for _, _, passenger, destination in where), tuple(walls),
    )  # fmt: skip


def draw_grid(grid: Grid, state: int) -> np.ndarray:
    """(210, 160, 3) uint8: the cells, and a disc where the agent is; in Taxi the passenger and the destination as well."""
    picture = np.full((210, 160, 3), 245, np.uint8)
    size = min(156 // grid.columns, 156 // grid.rows)
    left, top = (160 - size * grid.columns) // 2, (210 - size * grid.rows) // 2

    def corner(cell: int) -> tuple[int, int]:
        return left + size * (cell % grid.columns), top + size * (cell // grid.columns)

    def middle(cell: int) -> tuple[int, int]:
        x, y = corner(cell)
        return x + size // 2, y + size // 2

    taxi = len(grid.views) > 1
    for cell, kind in enumerate(grid.cells):
        (x, y), colour = corner(cell), COLOURS["." if taxi else kind]
        cv2.rectangle(picture, (x, y), (x + size, y + size), colour, -1)
        cv2.rectangle(picture, (x, y), (x + size, y + size), (150, 150, 150), 1)
        if taxi and kind != ".":
            cv2.putText(
                picture, kind, (x + 3, y + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (90, 90, 90), 1, cv2.LINE_AA
            )
    for row, column in grid.walls:
        x, y = corner(row * grid.columns + column + 1)
        cv2.line(picture, (x, y), (x, y + size), (40, 40, 40), 3)
    here = grid.cell_of[state]
    if taxi:
        passenger, destination = divmod(grid.view_of[state], 4)
        stands = [grid.cells.index(name) for name in "RGYB"]
        x, y = corner(stands[destination])
        cv2.rectangle(picture, (x + 2, y + 2), (x + size - 2, y + size - 2), (60, 150, 60), 2)
        cv2.circle(picture, middle(here), size // 3, (190, 90, 40), -1, cv2.LINE_AA)
        waits = here if passenger == 4 else stands[passenger]
        cv2.circle(picture, middle(waits), size // 6, (40, 60, 110), -1, cv2.LINE_AA)
    else:
        cv2.circle(picture, middle(here), max(size // 3, 3), (190, 90, 40), -1, cv2.LINE_AA)
    return picture
