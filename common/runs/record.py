"""Turns finished runs into recorded ones: small copies of our own that travel with the repository.

    ./run python -m common.runs.record results/dqn/pong/hour/seed1 [...]

Give all seeds of one paper, variant, task and size; they replace what was recorded for it. Only the median seed keeps its weights,
rounded to float16; its evaluation is played anew with those, so that a reader who plays it again gets the recorded episodes.

    ./run python -m common.runs.record --refilm replications/dqn/recorded/base/pong/hour/seed1

evaluates a recorded run anew, for what evaluations keep now (films, action values), if every episode comes out as recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from common.errors import UserError, run_main
from common.evaluation import protocol as final_evaluation
from common.evaluation.filming import FILE
from common.evaluation.video import cut, seconds_within
from common.files import write_file, write_json
from common.papers import NAME, REPLICATIONS, SIZE, as_text, is_overridden, recorded_dir
from common.runs.description import given_settings
from common.say import say

LOGS = ("curve.csv", "episodes.csv", "timing.csv")
MEASURES = ("measures.json", "points.csv")  # of a task with claims, which has no evaluation
LEFT = ("model.safetensors", "board.json")  # what some tasks with claims leave besides; kept for one seed
VIDEOS, VIDEO_SECONDS = ("episode.mp4", "best.mp4"), 45
VIDEO_BYTES = 70_000  # or so; a film of more is cut shorter. 45 seconds of an Atari game have less
EPISODES_BYTES = 40_000  # a longer episodes.csv is thinned,
WHOLE_ROWS = 200  # but for its last rows: scores over the last 100 training episodes stay exact
SAME = ("paper", "variant", "task", "budget", "settings")
SAME_CODE = {
    "code_sha256": "their code",
    "lock_sha256": "their packages (uv.lock)",
    "rom_sha256": "their ROM",
}
RESULTS_FLAG = re.compile(r" --results(?:=| )\S+")  # where it lay on its machine tells nobody anything
FIX = "record runs that differ in nothing but the seed, or train the odd one again"


@dataclass(frozen=True)
class Finished:
    """One finished run, read whole. That of a task with claims has no `evaluation`; its `logs` are MEASURES, and LEFT where it has them."""

    folder: Path
    run: dict
    evaluation: dict | None
    logs: dict[str, bytes]
    weights: dict[str, torch.Tensor]

    @property
    def score(self) -> float:
        return float(self.evaluation["score"]) if self.evaluation else 0.0

    @property
    def seed(self) -> int:
        return int(self.run["seed"])


def record(
    run_dirs: Sequence[Path],
    *,
    allow_smoke: bool = False,
    device: str = "auto",
    replications: Path = REPLICATIONS,
) -> Path:
    """Records the runs and returns the folder that holds them, one `seed<N>` each.

    The earlier recording stays until the new one is complete. Raises UserError for runs that are not finished, damaged,
    or do not belong together.
    """
    runs = sorted((read_finished(Path(folder)) for folder in run_dirs), key=lambda r: r.seed)
    if not runs:
        raise UserError(
            "no run was given; name the folders of finished runs, e.g. results/dqn/pong/hour/seed1"
        )
    check_together(runs)
    first = runs[0].run
    if first["budget"] == "smoke" and not allow_smoke:
        raise UserError(
            f"{runs[0].folder} is a smoke run, which shows that the code runs and no result; "
            "record one of a longer budget, or add --allow-smoke"
        )
    if not (replications / first["paper"] / "paper.yaml").is_file():
        raise UserError(
            f"{runs[0].folder / 'run.json'}: there is no paper {first['paper']!r} in {replications}"
        )
    for run in runs:
        check_settings(run, replications)
        check_committed(run)
    target = recorded_dir(first["paper"], first["variant"], first["task"], first["budget"], root=replications)
    new, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    try:
        if old.exists() and not target.exists():  # killed between the two renames below
            os.replace(old, target)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        median = sorted(runs, key=lambda r: (r.score, r.seed))[(len(runs) - 1) // 2]
        for run in runs:
            folder = new / f"seed{run.seed}"
            folder.mkdir(parents=True)
            write_trimmed(run, folder, with_weights=run is median, device=device)
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as problem:
        why = problem.strerror or problem
        raise UserError(
            f"{target} could not be written ({why}); what was recorded before is kept"
        ) from problem
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()  # only if nothing is in it
    return target


def write_trimmed(run: Finished, folder: Path, with_weights: bool, device: str) -> None:
    """One run's recorded files, written into an empty folder."""
    notes, logs = [], dict(run.logs)
    provenance = dict(run.run["provenance"])
    if provenance.get("command"):
        provenance["command"] = RESULTS_FLAG.sub("", provenance["command"])
    run = replace(run, run=run.run | {"provenance": provenance})
    if run.evaluation is None:
        for name, content in logs.items():
            if with_weights or name not in LEFT:
                write_file(folder / name, content)
        write_json(folder / "run.json", run.run)
        return
    logs["episodes.csv"], note = thin(logs["episodes.csv"])
    notes += [note] if note else []
    for name, content in logs.items():
        write_file(folder / name, content)
    write_json(folder / "run.json", run.run)
    if with_weights:
        write_file(folder / "model.safetensors", save_tensors(rounded(run)))
        recorded = final_evaluation.evaluate_run(folder, device)
        cut_videos(folder)
        notes.append(
            f"recorded with weights rounded to float16 and evaluated anew with them: {float(recorded['score']):.6g}; "
            f"before rounding {run.score:.6g}"
        )
    else:
        write_json(folder / "evaluation.json", run.evaluation)
        notes.append("recorded without its weights, which are kept for the seed with the median score only")
    provenance["notes"] = [*provenance.get("notes", []), *notes]
    write_json(folder / "run.json", run.run | {"provenance": provenance})


def cut_videos(folder: Path) -> None:
    for video in VIDEOS:  # there is no best one where it is no better than the median
        path = folder / video
        if path.exists():
            cut(path, path, min(VIDEO_SECONDS, seconds_within(path, VIDEO_BYTES)))


def refilm(folder: Path, device: str = "auto") -> Path:
    """Evaluates a recorded run anew and takes over what came of it; its scores are what they were.

    UserError, and nothing changed, where an episode comes out otherwise than recorded or the weights were not kept.
    """
    recorded = read_finished(folder)
    with tempfile.TemporaryDirectory() as room:
        new = Path(room) / folder.name
        shutil.copytree(folder, new)
        evaluation = final_evaluation.evaluate_run(new, device)
        for key in ("episodes", "extra_episodes"):
            before, after = recorded.evaluation.get(key, []), evaluation.get(key, [])
            rows = [
                [[e[name] for name in ("seed", "score", "length")] for e in found]
                for found in (before, after)
            ]
            if rows[0] != rows[1] or evaluation["score"] != recorded.evaluation["score"]:
                same = sum(a == b for a, b in zip(*rows, strict=False))
                raise UserError(
                    f"{folder}: {same} of its {len(before)} {key} came out as recorded, and all must; nothing was changed. "
                    "Use the kind of machine and the versions that its run.json names"
                )
        cut_videos(new)
        for name in (*VIDEOS, FILE, "evaluation.json"):
            if (new / name).exists():
                write_file(folder / name, (new / name).read_bytes())
            else:
                (folder / name).unlink(missing_ok=True)
    count = len(recorded.evaluation["episodes"]) + len(recorded.evaluation.get("extra_episodes", []))
    note = f"evaluated anew for its films: all {count} episodes came out as recorded"
    provenance = recorded.run["provenance"]
    notes = [*(n for n in provenance.get("notes", []) if n != note), note]
    write_json(folder / "run.json", recorded.run | {"provenance": provenance | {"notes": notes}})
    return folder


def rounded(run: Finished) -> dict[str, torch.Tensor]:
    """The weights with every floating-point tensor as float16. UserError where that overflows."""
    tensors = {}
    for name, tensor in run.weights.items():
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float16)
            if not torch.isfinite(tensor).all():
                path = run.folder / "model.safetensors"
                raise UserError(
                    f"{path}: {name} holds values that are not finite in float16; such a run is of no use"
                )
        tensors[name] = tensor.contiguous()
    return tensors


def thin(content: bytes) -> tuple[bytes, str | None]:
    """`episodes.csv` in EPISODES_BYTES or so, one in k of the early rows and the last ones whole; and what was done."""
    if len(content) <= EPISODES_BYTES:
        return content, None
    header, *rows = content.decode().splitlines()
    early, late = rows[:-WHOLE_ROWS], rows[-WHOLE_ROWS:]
    room = max(EPISODES_BYTES - sum(len(row) + 1 for row in late), EPISODES_BYTES // 10)
    step = -(-sum(len(row) + 1 for row in early) // room)
    kept = [header, *early[::step], *late]
    note = (
        f"episodes.csv was thinned when recorded: one in {step} of the first {len(early)} episodes, "
        f"the last {len(late)} whole"
    )
    return ("\n".join(kept) + "\n").encode(), note


# --- reading and checking ---


def read_finished(folder: Path) -> Finished:
    """A finished run. UserError that names the file for one that is missing, damaged or does not fit the others."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder; name finished runs, e.g. results/dqn/pong/hour/seed1"
        )
    contents = {}
    claims = any((folder / name).exists() for name in MEASURES)
    needed = (
        (*MEASURES, "run.json") if claims else (*LOGS, "model.safetensors", "run.json", "evaluation.json")
    )
    for name in needed:
        path = folder / name
        try:
            contents[name] = path.read_bytes()
        except FileNotFoundError:
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
    try:
        weights = load_tensors(contents["model.safetensors"])
    except (SafetensorError, ValueError) as problem:
        raise _torn(folder / "model.safetensors", problem) from None
    digest = hashlib.sha256(contents["model.safetensors"]).hexdigest()
    if evaluation.get("weights_sha256") not in (None, digest):
        raise UserError(
            f"{folder / 'evaluation.json'} was made with other weights than {folder / 'model.safetensors'}; "
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


def check_together(runs: Sequence[Finished]) -> None:
    """UserError unless the runs differ in nothing but their seeds."""
    first = runs[0]
    seen: dict[int, Path] = {}
    for run in runs:
        if run.seed in seen:
            both = f"{seen[run.seed]} and {run.folder}"
            raise UserError(f"{both} are both seed {run.seed}; give each seed once")
        seen[run.seed] = run.folder
        for key in SAME:
            if run.run[key] != first.run[key]:
                what = _difference(key, first.run[key], run.run[key])
                raise UserError(f"{first.folder} and {run.folder} differ in {what}; {FIX}")
        for key, what in SAME_CODE.items():
            a, b = first.run["provenance"][key], run.run["provenance"][key]
            if a != b:
                shown = f"{str(a)[:12]} and {str(b)[:12]}"
                raise UserError(f"{first.folder} and {run.folder} differ in {what}: {shown}; {FIX}")


def check_settings(run: Finished, replications: Path) -> None:
    """UserError for a run with settings that a user gave: recorded, it would pass for the paper's."""
    given = given_settings(run.run, replications)
    if given or is_overridden(run.run["budget"]):
        raise UserError(
            f"{run.folder} was trained with settings of its own ({as_text(given)}), so it is no run of the paper's; record "
            "one that was trained without"
        )


def check_committed(run: Finished) -> None:
    """UserError for a run that nobody can make again: its code stands in no commit."""
    if run.run["provenance"].get("diff_sha256") or not run.run["provenance"].get("commit"):
        raise UserError(f"{run.folder} was trained with code of no commit; commit it, and train again")


def _difference(key: str, a: object, b: object) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        name = next(k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k) or (k in a) != (k in b))
        return f"{key}, {name}: {a.get(name)!r} and {b.get(name)!r}"
    return f"{key}: {a!r} and {b!r}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m common.runs.record", description=__doc__.split("\n")[0])
    parser.add_argument(
        "run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="all seeds of one task and size"
    )
    parser.add_argument("--refilm", action="store_true", help="evaluate recorded runs anew, for their films")
    parser.add_argument(
        "--allow-smoke", action="store_true", help="record a smoke run: its scores mean nothing"
    )
    parser.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda"], help="for the recorded evaluation"
    )
    arguments = parser.parse_args()
    if arguments.refilm:
        for folder in arguments.run_dirs:
            say(f"filmed anew: {refilm(folder, arguments.device)}")
        return
    folder = record(arguments.run_dirs, allow_smoke=arguments.allow_smoke, device=arguments.device)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(
        f"recorded {len(arguments.run_dirs)} runs in {folder} ({size / 1e6:.1f} MB); commit that folder to keep it"
    )


if __name__ == "__main__":
    run_main(main)
