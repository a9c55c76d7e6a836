"""A finished run, read whole and checked: what recording starts from."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from common.errors import UserError
from common.papers import NAME, SIZE

LOGS = ("curve.csv", "episodes.csv", "timing.csv")
MEASURES = ("measures.json", "points.csv")  # of a task with claims, which has no evaluation
WEIGHTS = "model.safetensors"
LEFT = (WEIGHTS, "board.json")  # what some tasks with claims leave besides; kept for one seed
WITHOUT_WEIGHTS = "recorded without its weights, which are kept for the seed with the median score only"  # a note of such a run
SAME_CODE = {
    "code_sha256": "their code",
    "lock_sha256": "their packages (uv.lock)",
    "rom_sha256": "their ROM",
}


@dataclass(frozen=True)
class Finished:
    """One finished run, read whole. That of a task with claims has no `evaluation`; its `logs` are MEASURES, and LEFT where it has them.

    weights: None in a recorded run that was recorded without them.
    """

    folder: Path
    run: dict
    evaluation: dict | None
    logs: dict[str, bytes]
    weights: dict[str, torch.Tensor] | None

    @property
    def score(self) -> float:
        return float(self.evaluation["score"]) if self.evaluation else 0.0

    @property
    def has_weights(self) -> bool:
        return self.weights is not None if self.evaluation else any(name in self.logs for name in LEFT)

    @property
    def seed(self) -> int:
        return int(self.run["seed"])


def read_finished(folder: Path) -> Finished:
    """A finished run. UserError that names the file for one that is missing, damaged or does not fit the others."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder; name folders of finished runs, which ./run status lists"
        )
    contents = {}
    claims = any((folder / name).exists() for name in MEASURES)
    needed = ("run.json", *(MEASURES if claims else (*LOGS, WEIGHTS, "evaluation.json")))
    for name in needed:
        path = folder / name
        try:
            contents[name] = path.read_bytes()
        except FileNotFoundError:
            if name == WEIGHTS and WITHOUT_WEIGHTS.encode() in contents["run.json"]:
                continue
            fix = (
                f"evaluate it: python -m common.runs.evaluate {folder}"
                if name == "evaluation.json"
                else "start the same training again, it goes on from its checkpoint"
            )
            raise UserError(f"{path} is missing, so the run is not finished; {fix}") from None
        except OSError as problem:
            raise UserError(f"{path} cannot be read ({problem.strerror})") from None
    if claims:
        run = _json(
            folder / "run.json",
            contents["run.json"],
            lambda run: _check_run(run, ("settings", "provenance", "cost")),
        )
        _json(folder / "measures.json", contents["measures.json"], _check_measures)
        if not contents["points.csv"].endswith(b"\n"):
            raise _torn(folder / "points.csv", "its last line is cut off")
        left = {name: (folder / name).read_bytes() for name in LEFT if (folder / name).exists()}
        return Finished(folder, run, None, {name: contents[name] for name in MEASURES} | left, {})
    run = _json(folder / "run.json", contents["run.json"], _check_run)
    evaluation = _json(folder / "evaluation.json", contents["evaluation.json"], _check_evaluation)
    for name in LOGS:
        _check_csv(folder / name, contents[name])
    weights = None
    if WEIGHTS in contents:
        try:
            weights = load_tensors(contents[WEIGHTS])
        except (SafetensorError, ValueError) as problem:
            raise _torn(folder / WEIGHTS, problem) from None
        if evaluation.get("weights_sha256") not in (None, hashlib.sha256(contents[WEIGHTS]).hexdigest()):
            raise UserError(
                f"{folder / 'evaluation.json'} was made with other weights than {folder / WEIGHTS}; "
                f"evaluate again: python -m common.runs.evaluate {folder}"
            )
    for key in ("paper", "variant", "task", "budget", "seed"):
        if key in evaluation and evaluation[key] != run[key]:
            raise UserError(
                f"{folder}: run.json and evaluation.json are of different runs ({key} {run[key]!r} and "
                f"{evaluation[key]!r}); evaluate again: python -m common.runs.evaluate {folder}"
            )
    return Finished(folder, run, evaluation, {name: contents[name] for name in LOGS}, weights)


def _torn(path: Path, problem: object) -> UserError:
    fix = (
        f"evaluate again: python -m common.runs.evaluate {path.parent}"
        if path.name == "evaluation.json"
        else "start the same training again, it writes the file anew"
    )
    return UserError(f"{path} is damaged ({problem}); {fix}")


def _json(path: Path, content: bytes, check) -> dict:
    try:
        value = json.loads(content)
        check(value)
        return value
    except KeyError as missing:
        raise _torn(path, f"no {missing}") from None
    except (ArithmeticError, ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise _torn(path, problem) from None


def _check_measures(measures: dict) -> None:
    if not measures or not all(math.isfinite(value) for value in measures.values()):
        raise ValueError("a measure is not a finite number, or there is none")


def _check_run(
    run: dict, mappings: Sequence[str] = ("settings", "provenance", "progress", "result", "cost")
) -> None:
    for key in ("paper", "task", "variant"):  # they become folders
        name = run[key]
        if not (isinstance(name, str) and NAME.fullmatch(name)) and not (key == "variant" and name is None):
            raise ValueError(f"{key} {name!r} is not a name of a-z, 0-9 and _")
    if not isinstance(run["budget"], str) or not SIZE.fullmatch(run["budget"]):
        raise ValueError(f"budget {run['budget']!r} is not one")
    if type(run["seed"]) is not int or not 0 <= run["seed"] < 2**63:
        raise ValueError(f"seed {str(run['seed'])[:40]} is not a whole number of 0 or more")
    for key in mappings:
        if not isinstance(run[key], dict):
            raise ValueError(f"{key} is not a mapping")
    if not isinstance(run["provenance"].get("notes", []), list):
        raise ValueError("provenance.notes is not a list")
    for key in SAME_CODE:
        run["provenance"][key]


def _check_evaluation(evaluation: dict) -> None:
    scores = [float(episode["score"]) for episode in evaluation["episodes"]]
    if not scores:
        raise ValueError("no episodes")
    if not all(map(math.isfinite, [*scores, evaluation["score"]])):
        raise ValueError("a score is not a finite number")
    if evaluation.get("protocol", {}).get("score", "evaluation_mean") != "evaluation_mean":
        return  # a score of the training itself
    score = float(evaluation["score"])
    if not abs(score - sum(scores) / len(scores)) <= 1e-6 * (1 + abs(score)):
        raise ValueError(f"score {evaluation['score']!r} is not the mean of its {len(scores)} episodes")


def _check_csv(path: Path, content: bytes) -> None:
    try:
        if not content.endswith(b"\n"):
            raise ValueError("its last line is cut off")
        rows = list(csv.reader(io.StringIO(content.decode())))
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(rows[0]):
                raise ValueError(f"line {number} has {len(row)} cells and the header {len(rows[0])}")
            for cell in row:
                if cell:
                    float(cell)
    except (ValueError, csv.Error) as problem:
        raise _torn(path, problem) from None
