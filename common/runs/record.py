"""Turns finished runs into recorded ones: small copies of our own that travel with the repository.

    ./run python -m common.runs.record results/dqn/pong/hour/seed1 [...]

Give all seeds of one paper, variant, task and size; they replace what was recorded for it. With --add they join it, if their code is
the same. Only the median seed keeps its weights, rounded to float16; its evaluation is played anew with those, so that a reader who
plays it again gets the recorded episodes.

    ./run python -m common.runs.record --refilm replications/dqn/recorded/base/pong/hour/seed1

evaluates a recorded run anew, for what evaluations keep now (films, action values), if every episode comes out as recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from common.errors import UserError, run_main
from common.evaluation import protocol as final_evaluation
from common.evaluation.filming import FILE
from common.evaluation.video import cut, seconds_within
from common.files import write_file, write_json
from common.papers import REPLICATIONS, as_text, is_overridden, recorded_dir
from common.runs.description import given_settings
from common.runs.finished import LEFT, SAME_CODE, WITHOUT_WEIGHTS, Finished, read_finished
from common.say import say

VIDEOS, VIDEO_SECONDS = ("episode.mp4", "best.mp4"), 45
VIDEO_BYTES = 70_000  # or so; a film of more is cut shorter. 45 seconds of an Atari game have less
EPISODES_BYTES = 40_000  # a longer episodes.csv is thinned,
WHOLE_ROWS = 200  # but for its last rows: scores over the last 100 training episodes stay exact
SAME = ("paper", "variant", "task", "budget", "settings")
RESULTS_FLAG = re.compile(r" --results(?:=| )\S+")  # where it lay on its machine tells nobody anything
FIX = "record runs that differ in nothing but the seed, or train the odd one again"


def record(
    run_dirs: Sequence[Path],
    *,
    add: bool = False,
    allow_smoke: bool = False,
    device: str = "auto",
    replications: Path = REPLICATIONS,
) -> Path:
    """Records the runs and returns the folder that holds them, one `seed<N>` each.

    add: other seeds that are recorded stay. The earlier recording stays until the new one is complete. Raises UserError for runs that
    are not finished, damaged, or do not belong together.
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
        check_weights(run)
    target = recorded_dir(first["paper"], first["variant"], first["task"], first["budget"], root=replications)
    new, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    try:
        if old.exists() and not target.exists():  # killed between the two renames below
            os.replace(old, target)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        given = {run.seed for run in runs}
        stay = [read_finished(folder) for folder in sorted(target.glob("seed*"))] if add else []
        stay = [run for run in stay if run.seed not in given]
        check_together([*stay, *runs])
        keeps = nearest_to_median([*stay, *runs])
        for run in runs:
            folder = new / f"seed{run.seed}"
            folder.mkdir(parents=True)
            write_trimmed(run, folder, with_weights=run is keeps, device=device)
        for run in stay:
            copy_recorded(run, new / f"seed{run.seed}", with_weights=run is keeps)
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


def nearest_to_median(runs: Sequence[Finished]) -> Finished:
    """The run with the median score, or the nearest to it that has its weights."""
    median = sorted(runs, key=lambda r: (r.score, r.seed))[(len(runs) - 1) // 2]
    having = [run for run in runs if run.has_weights] or runs
    return min(having, key=lambda r: (abs(r.score - median.score), r is not median, r.seed))


def copy_recorded(run: Finished, folder: Path, with_weights: bool) -> None:
    """A run that is recorded already, as it is; without its weights and films where another seed keeps them from now on."""
    shutil.copytree(run.folder, folder)
    if with_weights or not run.has_weights:
        return
    for name in (*LEFT, *VIDEOS, FILE):
        (folder / name).unlink(missing_ok=True)
    if run.evaluation is not None:
        provenance = run.run["provenance"]
        notes = [*provenance.get("notes", []), WITHOUT_WEIGHTS]
        write_json(folder / "run.json", run.run | {"provenance": provenance | {"notes": notes}})


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
        notes.append(WITHOUT_WEIGHTS)
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
    check_weights(recorded)
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


# --- checking ---


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


def check_weights(run: Finished) -> None:
    """UserError for a recorded run whose weights were not kept."""
    if run.evaluation is not None and not run.has_weights:
        raise UserError(
            f"{run.folder} was recorded without its weights, which are needed here; name the seed that has them, or "
            "new runs alone, with --add, and it stays as it is"
        )


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
    parser.add_argument("--add", action="store_true", help="other seeds that are recorded stay")
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
    folder = record(
        arguments.run_dirs, add=arguments.add, allow_smoke=arguments.allow_smoke, device=arguments.device
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(
        f"recorded {len(arguments.run_dirs)} runs in {folder} ({size / 1e6:.1f} MB); commit that folder to keep it"
    )


if __name__ == "__main__":
    run_main(main)
