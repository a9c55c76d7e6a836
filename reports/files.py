"""Reads the files of a run's folder. A damaged file is an error that names the file, what is wrong and the fix.

Nothing is guessed. Only the logs of a run that is still writing (`checkpoint/live/`) may end in half a line.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import fastjsonschema
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from common.errors import UserError

_number, _count, _text = (
    {"type": "number"},
    {"type": "integer", "minimum": 0, "maximum": 10**15},
    {"type": "string"},
)
_maybe_text = {"type": ["string", "null"]}
_maybe_number = {"type": ["number", "null"], "minimum": -1e15, "maximum": 1e15}


def json_object(required: dict, optional: dict | None = None) -> dict:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


RUN_SCHEMA = json_object(
    {
        "paper": _text,
        "task": _text,
        "seed": _count,
        "settings": {"type": "object"},
        "progress": json_object(
            {"agent_steps": _count, "frames": _count}, {"updates": _count, "episodes": _count}
        ),
        "provenance": json_object(
            {"code_sha256": _maybe_text, "lock_sha256": _maybe_text},
            {
                "commit": _maybe_text,
                "diff_sha256": _maybe_text,
                "rom_sha256": _maybe_text,
                "versions": {"type": "object"},
                "hardware": {"type": "object"},
                "device": _text,
                "command": _maybe_text,
                "notes": {"type": "array"},
            },
        ),
        "cost": json_object(
            {"seconds": _maybe_number},
            {
                "attempts": _count,
                "steps_per_second": _maybe_number,
                "peak_memory_mb": _maybe_number,
                "evaluation_seconds": _maybe_number,
            },
        ),
    },
    {
        "variant": _maybe_text,
        "paper_frames": {"type": ["integer", "null"]},
        "result": {"type": "object"},
        "superseded": _text,  # of a recorded run: what has changed in the rules since
    },
)


CLAIMS_RUN_SCHEMA = json_object(
    {
        "paper": _text,
        "task": _text,
        "seed": {"type": "integer"},
        "settings": {"type": "object"},
        "provenance": json_object(
            {"code_sha256": {"type": ["string", "null"]}, "lock_sha256": {"type": ["string", "null"]}},
            {"undecided": {"type": "object", "additionalProperties": _text}},
        ),
        "cost": json_object({"seconds": {"type": "number"}}),
    }
)


MEASURES_SCHEMA = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "number"}}


_episodes = {
    "type": "array",
    "items": json_object({"score": _number}, {"seed": {"type": "integer"}, "length": _count}),
}


EVALUATION_SCHEMA = json_object(
    {
        "score": _number,
        "episodes": {**_episodes, "minItems": 1},
        "protocol": {"type": "object"},
    },
    {
        "extra_episodes": _episodes,
        "weights": _text,
        "weights_agent_step": {"type": ["integer", "null"]},
        "seconds": _maybe_number,
        "device": _text,
        "score_of": json_object({"kind": _text, "episodes": {"type": ["integer", "null"], "minimum": 0}}),
    },
)


VALUES_SCHEMA = json_object(
    {
        "kind": {"enum": ["values", "probabilities"]},
        "fps": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
        "actions": {
            "type": "array",
            "items": {"type": "string", "maxLength": 40},
            "minItems": 1,
            "maxItems": 64,
        },
        "weights_sha256": _text,
        "films": {
            "type": "object",
            "additionalProperties": json_object(
                {
                    "episode": _count,
                    "played": {"type": "array", "items": _count, "minItems": 1, "maxItems": 10**5},
                    "values": {"type": "array", "items": {"type": "array", "items": _number}},
                }
            ),
        },
    }
)


@dataclass(frozen=True)
class Curve:
    """`columns[name]` is one value per row; None where a cell is empty or not a finite number (`not_finite` counts
    the latter).
    """

    columns: dict[str, list[float | None]] = field(default_factory=dict)
    not_finite: int = 0

    def series(self, name: str, x: str = "frames") -> tuple[list[float], list[float | None]]:
        """(x, y) with every row that has an x; y keeps None, so that a gap stays a gap.

        Empty where the column holds no number.
        """
        ys = self.columns.get(name, [])
        if all(y is None for y in ys):
            return [], []
        pairs = [(a, b) for a, b in zip(self.columns.get(x, []), ys, strict=True) if a is not None]
        return [a for a, _ in pairs], [b for _, b in pairs]


def damaged(path: Path, what: str) -> UserError:
    if "recorded" in path.parts:
        fix = f"restore it: git checkout -- {path.parent}"
    else:
        fix = "copy the file again from where the run was made"
        if path.name not in ("evaluation.json", "values.json"):
            fix += "; if that was here, delete it, and the command that trains the run writes it anew"
        elif command := evaluate_command(path.parent):
            fix += f", or delete it and evaluate here: {command}"
    return UserError(f"{path}: {what}; {fix}")


def evaluate_command(folder: Path) -> str | None:
    """What evaluates a run that is trained; None where its weights are not here."""
    weights = (folder / "model.safetensors").is_file()
    return f"./run python -m common.runs.evaluate {os.path.relpath(folder)}" if weights else None


@cache
def _quick_check(schema: str) -> Callable[[object], object]:
    return fastjsonschema.compile(json.loads(schema), use_default=False)


def read_json(path: Path, schema: dict) -> dict:
    """The validated content. UserError for a missing, torn or malformed file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise damaged(path, "the file is missing") from None
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of numbers with thousands of digits
        raise damaged(path, f"not valid JSON ({error})") from None
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from None
    try:
        _quick_check(json.dumps(schema))(data)
    except fastjsonschema.JsonSchemaException:  # jsonschema takes a hundred times as long, and says it better
        problem = best_match(Draft202012Validator(schema).iter_errors(data))
        where = ".".join(str(part) for part in problem.absolute_path) or "top level"
        raise damaged(path, f"at {where}: {problem.message[:200]}") from None
    return data


def _finite(number: float) -> bool:
    """Whether a page can calculate with it: no infinity, and no integer that is beyond all floats."""
    try:
        return math.isfinite(number) and abs(number) < 1e300
    except OverflowError:
        return False


def read_evaluation(path: Path) -> dict:
    data = read_json(path, EVALUATION_SCHEMA)
    for key in ("episodes", "extra_episodes"):
        for index, episode in enumerate(data.get(key) or []):
            if not _finite(episode["score"]):
                raise damaged(path, f"at {key}.{index}.score: {episode['score']} is not a finite number")
    if not _finite(data["score"]):
        raise damaged(path, f"at score: {data['score']} is not a finite number")
    if data["protocol"].get("score", "evaluation_mean") == "evaluation_mean":
        mean = sum(e["score"] for e in data["episodes"]) / len(data["episodes"])
        if not math.isclose(mean, data["score"], rel_tol=1e-6, abs_tol=1e-6):
            raise damaged(
                path,
                f"score {data['score']} is not the mean of its {len(data['episodes'])} episodes, {mean:.6g}",
            )
    return data


def read_values(path: Path) -> dict | None:
    """What the network said while episodes were filmed; None where that was not kept: no file, or an empty one."""
    if not path.exists() or not path.stat().st_size:
        return None
    data = read_json(path, VALUES_SCHEMA)
    actions = len(data["actions"])
    for name, film in data["films"].items():
        if len(film["values"]) != len(film["played"]):
            raise damaged(
                path, f"at films.{name}: {len(film['values'])} rows of values, {len(film['played'])} actions"
            )
        if any(len(row) != actions or not all(map(_finite, row)) for row in film["values"]):
            raise damaged(
                path, f"at films.{name}.values: a row is not {actions} finite numbers, one for each action"
            )
        if max(film["played"]) >= actions:
            raise damaged(
                path, f"at films.{name}.played: {max(film['played'])} is none of the {actions} actions"
            )
    return data


def read_curve(path: Path, live: bool = False, needed: tuple[str, ...] = ("agent_steps", "frames")) -> Curve:
    """`live`: the file is being written, so it may be absent, empty or end in half a line. `needed`: its columns at
    least.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if live:
            return Curve()
        raise damaged(path, "the file is missing") from None
    except (UnicodeDecodeError, OSError) as error:
        raise damaged(path, f"cannot be read ({error})") from None
    if live and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(text.splitlines()))
    if not rows:
        if live:
            return Curve()
        raise damaged(path, "the file is empty")
    header = rows[0]
    for column in needed:
        if column not in header:
            raise damaged(path, f"line 1 has no column {column!r}")
    columns: dict[str, list[float | None]] = {name: [] for name in header}
    not_finite = 0
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise damaged(path, f"line {line} has {len(row)} cells, the header {len(header)}")
        for name, cell in zip(header, row, strict=True):
            try:
                value = float(cell) if cell.strip() else None
            except ValueError:
                raise damaged(path, f"line {line}: {name} is {cell[:40]!r}, not a number") from None
            if value is not None and not math.isfinite(value):
                value, not_finite = None, not_finite + 1
            columns[name].append(value)
    return Curve(columns, not_finite)


def with_hours(curve: Curve, timing: Path) -> Curve:
    """The curve with a column `hours`: wall-clock since the start, over all attempts, as `timing.csv` has it.

    Only informs, and a recorded run may lack it: without a readable file the curve stays as it is.
    """
    try:
        clock = read_curve(timing, live=True, needed=("agent_steps", "seconds")).columns
    except UserError:
        return curve
    seconds = dict(reversed(list(zip(clock.get("agent_steps", []), clock.get("seconds", []), strict=True))))
    hours = [
        None if (s := seconds.get(step)) is None else s / 3600
        for step in curve.columns.get("agent_steps", [])
    ]
    if not any(h is not None for h in hours):
        return curve
    return Curve(curve.columns | {"hours": hours}, curve.not_finite)


def training_scores(path: Path, window: int = 100, most: int = 500) -> Curve:
    """The mean score of the last episodes at the end of some of them, from a running training's `episodes.csv`."""
    columns = read_curve(path, live=True).columns
    scores = columns.get("score", [])
    if not scores or None in scores:
        return Curve()
    at = range(len(scores) - 1, -1, -max(1, len(scores) // most))
    means = [sum(scores[max(0, i + 1 - window) : i + 1]) / min(window, i + 1) for i in at]
    kept = {name: [columns[name][i] for i in at][::-1] for name in ("agent_steps", "frames")}
    return Curve(kept | {"train_score_100": means[::-1]})


def read_status(folder: Path) -> dict:
    """Only informs; a run that is just writing it is not an error."""
    try:
        status = json.loads((folder / "checkpoint" / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    counts = ("agent_steps", "training_steps", "steps_per_second")

    def fits(name: str, value: object) -> bool:
        return type(value) in (int, float) and 0 <= value < 1e15 if name in counts else isinstance(value, str)

    return {k: v for k, v in status.items() if fits(k, v)} if isinstance(status, dict) else {}


def read_points(path: Path) -> dict[tuple[str, str], dict[float, float]]:
    """UserError for a missing, torn or malformed file."""
    points: dict[tuple[str, str], dict[float, float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                points.setdefault((row["figure"], row["series"]), {})[float(row["x"])] = float(row["y"])
    except FileNotFoundError:
        raise damaged(path, "the file is missing") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise damaged(path, f"cannot be read as a table of points ({error!r})") from None
    if not all(math.isfinite(v) for curve in points.values() for pair in curve.items() for v in pair):
        raise damaged(path, "it holds a value that is not a finite number")
    return points
