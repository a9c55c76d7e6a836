"""A page's games on a board: read from `board.json`, which the run of a task with claims may leave, and shown by boards.js.

The tournament of a run's players stands there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.files import damaged, json_object, read_json

_integers = {"type": "array", "items": {"type": "integer"}}
_texts = {"type": "array", "items": {"type": "string", "maxLength": 200}}
_numbers = {"type": "array", "items": {"type": "number"}}
_maybe = {"type": ["number", "null"]}
GAME = json_object(
    {
        "title": {"type": "string", "maxLength": 200},
        "actions": _integers,
        "names": _texts,
        "result": {"enum": [-1, 0, 1]},
        "boards": {"type": "array", "items": {"type": "string", "pattern": "^[.XO]*$"}},
        "visits": {"type": "array", "items": {"anyOf": [{"type": "null"}, _integers]}},
        "values": {"type": "array", "items": _maybe},
    },
    {"sgf": {"type": "string"}},
)
SCHEMA = json_object(
    {
        "game": {"enum": ["go", "tic_tac_toe"]},
        "size": {"type": "integer", "minimum": 2, "maximum": 19},
        "komi": {"type": "number"},
        "tournament": {"type": "object"},
        "games": {"type": "array", "items": GAME},
    }
)
TOURNAMENT = json_object(
    {
        "names": _texts,
        "points": {"type": "array", "items": _numbers},
        "games": {"type": "integer", "minimum": 1},
        "elo": _numbers,
    }
)
RESULTS = {
    "go": {1: "Black won", -1: "White won", 0: "draw"},
    "tic_tac_toe": {1: "X won", -1: "O won", 0: "draw"},
}


def read_boards(folders: Sequence[Path]) -> dict[str, Any] | None:
    """What the first of these runs that has a `board.json` left; None where none has. UserError for a damaged one."""
    path = next((found for folder in folders if (found := folder / "board.json").exists()), None)
    if path is None:
        return None
    board = read_json(path, SCHEMA)
    if board["tournament"]:
        board["tournament"] = _tournament(path, board["tournament"])
    cells = board["size"] ** 2
    for number, game in enumerate(board["games"]):
        plies = len(game["actions"])
        whole = all(len(game[key]) == plies for key in ("names", "visits", "values"))
        if not whole or len(game["boards"]) != plies + 1 or any(len(b) != cells for b in game["boards"]):
            raise damaged(path, f"game {number + 1} has not one board, name, value for each move")
        game["outcome"] = RESULTS[board["game"]][game["result"]]
    board["games"].sort(key=lambda game: not any(game["visits"]))  # first those that show a search
    return board


def _tournament(path: Path, found: dict) -> dict[str, Any]:
    """Rows as the page shows them: name, rating, points against each other in percent."""
    from jsonschema import Draft202012Validator

    count = len(found.get("names", ()))
    if not Draft202012Validator(TOURNAMENT).is_valid(found) or not (
        len(found["elo"]) == len(found["points"]) == count and all(len(r) == count for r in found["points"])
    ):
        raise damaged(path, "its tournament is not a table")
    rows = [
        {
            "name": name,
            "elo": f"{elo:.0f}",
            "points": [
                "" if a == b else f"{100 * won / found['games']:.0f}"
                for b, won in enumerate(found["points"][a])
            ],
        }
        for a, (name, elo) in enumerate(zip(found["names"], found["elo"], strict=True))
    ]
    return {"rows": rows, "names": found["names"], "games": found["games"]}
