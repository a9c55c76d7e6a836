"""What a page says about one size of a task with claims: each claim judged over seeds, and the paper's figures from our data."""

from __future__ import annotations

import importlib
import math
import statistics as st
import time
from collections.abc import Sequence

from common.evaluation.statistics import DASH, as_printed, seed_interval
from common.evaluation.verdict import Judged
from common.papers import Claim
from reports.boards import read_boards
from reports.charts import PALETTE, draw
from reports.runs import SeedRun, finished_of
from reports.target import PageTarget
from reports.words import bound, duration, measured, number

WORDS = {"holds": ("holds", "good"), "fails": ("fails", "bad"), "open": ("open", "open")}


ROUNDING = 1e-6  # of a measure's value; another machine's arithmetic differs by less
FEW = 5  # seeds that are told one by one
CHECK_SECONDS = 90  # a recorded seed that took longer is not run again for a page


def bound_is_ours(claim: Claim) -> bool:
    """Whether the number of the bound is this project's: not printed, nor the zero (of a ratio, the one) of a comparison."""
    neutral = 1 if claim.factor else 0
    return claim.bound == "ours" and any(b not in (None, neutral) for b in (claim.at_least, claim.at_most))


def claim_rows(target: PageTarget, judged: Sequence[Judged], finished: Sequence[SeedRun]) -> list[dict]:
    rows = []
    for claim, found in zip(target.task.claims, judged, strict=True):
        word, colour = WORDS[found.key]
        if found.values:
            mean, interval = measured(found.score)
        else:
            reasons = dict.fromkeys(
                run.undecided[claim.measure] for run in finished if claim.measure in run.undecided
            )
            mean, interval = DASH, "not measured: " + "; ".join(reasons)
        rows.append(
            {
                "statement": claim.statement, "source": claim.source, "bound": bound(claim), "mean": mean,
                "interval": interval, "word": word, "colour": colour, "key": found.key, "name": claim.name,
                "factor": claim.factor, "ours": bound_is_ours(claim),
            }
        )  # fmt: skip
    return rows


def also_rows(target: PageTarget, finished: Sequence[SeedRun]) -> list[dict]:
    """What is shown beside the claims, as far as every seed has it."""
    rows = []
    for also in target.task.also:
        values = [run.measures[also["measure"]] for run in finished if also["measure"] in run.measures]
        if values and len(values) == len(finished):
            mean, seeds = measured(seed_interval(values))
            if len(values) <= FEW and len(set(values)) > 1:  # the seeds say more than a Student interval
                mean, seeds = number(st.mean(values)), ", ".join(map(number, values))
            rows.append({"statement": also["statement"], "mean": mean, "seeds": seeds})
    return rows


def curves_of(figure: str, runs: Sequence[SeedRun]) -> dict[str, list[tuple[float, float, float, float]]]:
    """series -> (x, median, lowest, highest) over seeds, at every x that all of them have."""
    names = list(dict.fromkeys(series for run in runs for f, series in run.points if f == figure))
    curves = {}
    for name in names:
        tables = [run.points.get((figure, name), {}) for run in runs]
        shared = sorted(set(tables[0]).intersection(*tables[1:]))
        values = [(x, [table[x] for table in tables]) for x in shared]
        curves[name] = [(x, st.median(ys), min(ys), max(ys)) for x, ys in values]
    return {name: curve for name, curve in curves.items() if curve}


def figures_of(target: PageTarget, runs: Sequence[SeedRun]) -> list[dict]:
    """Each figure of paper.yaml that there are points for: picture, legend and the numbers at both ends."""
    found = []
    for figure in target.task.figures:
        curves = curves_of(figure["name"], runs)
        if not curves:
            continue
        legend = [(f"s{index % PALETTE + 1}", name) for index, name in enumerate(curves)]
        rows = [
            (name, *(f"{number(y)} at {as_printed(x)}" for x, y, *_ in (curve[0], curve[-1])))
            for name, curve in curves.items()
        ]
        found.append(
            {
                "log_x": False,
                "log_y": False,
                **figure,
                "svg": draw(figure, curves),
                "legend": legend,
                "rows": rows,
                "seeds": len(runs),
            }
        )
    return found


def details(target: PageTarget, runs: Sequence[SeedRun], judged: Sequence[Judged]) -> dict:
    """What only the section of a task with claims has."""
    finished = finished_of(runs)
    return {
        "notes": [],
        "claims": claim_rows(target, judged, finished) if judged else [],
        "also": also_rows(target, finished) if judged else [],
        "figures": figures_of(target, finished) if judged else [],
        "cost": [(r.seed, duration(r.run["cost"]["seconds"]), _memory(r)) for r in finished],
        "check": None,
        "boards": read_boards([run.folder for run in finished]),
    }


def _memory(run: SeedRun) -> str:
    memory = run.run["cost"].get("peak_memory_mb")
    return f"{memory:,} MB" if memory else DASH


def check_weights(target: PageTarget, runs: Sequence[SeedRun]) -> dict | None:
    """What can be measured again from recorded weights, where the paper's folder says how (`measures.check_again`)."""
    run = next((r for r in finished_of(runs) if (r.folder / "model.safetensors").exists()), None)
    if run is None or not (target.paper.folder / "measures.py").exists():
        return None
    name = f"replications.{target.paper.name}"
    measures, script = (importlib.import_module(f"{name}.{m}") for m in ("measures", target.task.script))
    started = time.monotonic()
    try:
        found = measures.check_again(script.Config(**run.run["settings"]), run.seed, run.folder)
    except (TypeError, RuntimeError) as error:
        sentence = f"The recorded settings or weights are not those of today's script ({error})."
        return {"ok": False, "sentence": sentence}
    if not found:
        return None
    return compared(run, found, f"seed {run.seed} was measured again from its weights", started)


def measured_again(target: PageTarget, runs: Sequence[SeedRun]) -> dict:
    """The quickest recorded seed, run again here and compared with what is recorded."""
    if (found := check_weights(target, runs)) is not None:
        return found
    run = min(finished_of(runs), key=lambda r: r.run["cost"]["seconds"])
    took = run.run["cost"]["seconds"]
    if took > CHECK_SECONDS:
        return {"ok": False, "sentence": f"No seed was run again for this page: one takes {duration(took)}."}
    script = importlib.import_module(f"replications.{target.paper.name}.{target.task.script}")
    try:
        config = script.Config(**run.run["settings"])
    except TypeError as error:
        return {"ok": False, "sentence": f"The recorded settings are not those of today's script ({error})."}
    started = time.monotonic()
    return compared(
        run,
        script.experiment(config, run.seed).measures,
        f"seed {run.seed} was run again",
        started,
        whole=True,
    )


def compared(run: SeedRun, found: dict[str, float], what: str, started: float, whole: bool = False) -> dict:
    """whole: every recorded measure must be in `found`."""
    head = f"Checked while rendering: {what} ({duration(time.monotonic() - started)}). "
    names = list(run.measures) if whole else list(found)
    off = [name for name in names if found.get(name) != run.measures[name]]
    if not off:
        return {"ok": True, "sentence": f"{head}All {len(names)} measures came out exactly as recorded."}
    worst = max(abs(found.get(n, math.inf) - run.measures[n]) / max(abs(run.measures[n]), 1e-12) for n in off)
    if worst < ROUNDING:
        words = f"All {len(names)} measures came out as recorded, within rounding ({number(worst)} of their value at most)."
        return {"ok": True, "sentence": head + words}
    return {
        "ok": False,
        "sentence": f"{head}{len(off)} of {len(names)} measures differ from the recorded ones, by "
        f"{number(worst)} of their value at most; floating-point arithmetic differs between kinds of machines.",
    }


def data(section: dict) -> dict:
    """The machine-readable part of one section, beside what all sections have."""
    return {
        "seeds": [run.seed for run in section["finished"]],
        "claims": {row["name"]: row["key"] for row in section["claims"]},
        "measures": {str(run.seed): run.measures for run in section["finished"]},
    }
