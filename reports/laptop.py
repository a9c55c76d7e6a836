"""The page of a laptop task: its claims judged over seeds, and the paper's figures drawn from our data."""

from __future__ import annotations

import csv
import importlib
import math
import statistics as st
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from common import papers
from common.errors import UserError
from common.evaluation.statistics import Estimate, as_printed, decimals_for, format_number
from common.evaluation.verdict import Verdict, decide_claims, judge_claim, open_claim, seeds_in_words, state
from reports.boards import read_boards
from reports.charts import PALETTE, Scale, _svg, short_count, tick_labels, ticks
from reports.data import SEED, SIZE, _bad, _object, differences, read_json
from reports.section import repeat_command, resolved_for, size_name
from reports.tables import DASH, deviation_rows, duration, plain_value, provenance_rows, same, shown
from reports.target import Target, roots

_text = {"type": "string"}
RUN_SCHEMA = _object(
    {
        "paper": _text,
        "task": _text,
        "seed": {"type": "integer"},
        "settings": {"type": "object"},
        "provenance": _object(
            {"code_sha256": {"type": ["string", "null"]}, "lock_sha256": {"type": ["string", "null"]}},
            {"undecided": {"type": "object", "additionalProperties": _text}},
        ),
        "cost": _object({"seconds": {"type": "number"}}),
    }
)
MEASURES_SCHEMA = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "number"}}
WORDS = {"holds": ("holds", "good"), "fails": ("fails", "bad"), "open": ("open", "open")}
SUPERSCRIPT = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)
CHECK_SECONDS = 90  # a recorded seed that took longer is not run again for a page


@dataclass(frozen=True)
class Run:
    """One seed's folder. `state`: finished or unfinished; points: (figure, series) -> {x: y}."""

    folder: Path
    source: str
    size: str
    seed: int
    state: str
    run: dict | None = None
    measures: dict[str, float] = field(default_factory=dict)
    points: dict[tuple[str, str], dict[float, float]] = field(default_factory=dict)
    evaluation: dict = field(default_factory=lambda: {"protocol": {}})  # what `differences` asks of a run

    @property
    def undecided(self) -> dict[str, str]:
        """Why measures could not be taken (common/runs/laptop.py), by name."""
        return self.run["provenance"].get("undecided", {})


def read_points(path: Path) -> dict[tuple[str, str], dict[float, float]]:
    """UserError for a missing, torn or malformed file."""
    points: dict[tuple[str, str], dict[float, float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                points.setdefault((row["figure"], row["series"]), {})[float(row["x"])] = float(row["y"])
    except FileNotFoundError:
        raise _bad(path, "the file is missing") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _bad(path, f"cannot be read as a table of points ({error!r})") from None
    if not all(math.isfinite(v) for curve in points.values() for pair in curve.items() for v in pair):
        raise _bad(path, "it holds a value that is not a finite number")
    return points


def read_run(folder: Path, source: str, target: Target) -> Run | None:
    """The run in `folder`, or None where nothing was started there."""
    size, seed = folder.parent.name, int(SEED.fullmatch(folder.name)[1])
    if not (folder / "run.json").exists():
        return Run(folder, source, size, seed, "unfinished") if (folder / "checkpoint").is_dir() else None
    run = read_json(folder / "run.json", RUN_SCHEMA)
    expected = {
        "paper": target.paper.name,
        "variant": target.variant_name,
        "task": target.task.name,
        "seed": seed,
    }
    for key, value in expected.items():
        if run.get(key) != value:
            raise _bad(folder / "run.json", f"at {key}: {run.get(key)!r}, but its folder says {value!r}")
    measures = read_json(folder / "measures.json", MEASURES_SCHEMA)
    undecided = run["provenance"].get("undecided", {})
    for claim in target.task.claims:
        if claim.measure in undecided and claim.measure not in measures:
            continue
        if claim.measure not in measures or not math.isfinite(measures[claim.measure]):
            raise _bad(
                folder / "measures.json", f"the claim {claim.name!r} needs the number {claim.measure!r}"
            )
    return Run(folder, source, size, seed, "finished", run, measures, read_points(folder / "points.csv"))


def find_runs(target: Target, results: Path) -> tuple[list[tuple[str, str, list[Run]]], list[str]]:
    """(source, size, runs by seed) for each size there is something of, the paper's size first, one's own before recorded;
    and what was left out.

    One's own results that cannot be used (damaged, or of an older form of the task) are left out where there is a finished
    recorded run to show instead, and a UserError where there is none.
    """
    found, problems = [], []
    for source, root in roots(target, results).items():
        for size in sorted(p for p in root.glob("*") if p.is_dir() and SIZE.fullmatch(p.name)):
            seeds = sorted(
                (p for p in size.glob("seed*") if SEED.fullmatch(p.name)), key=lambda p: int(p.name[4:])
            )
            try:
                runs = [run for p in seeds if (run := read_run(p, source, target)) is not None]
                judge_claims(target, _finished(runs))
            except UserError as problem:
                if source == "recorded":
                    raise
                problems.append((size, problem))
                continue
            if runs:
                found.append((source, size.name, runs))
    if problems and not any(source == "recorded" and _finished(runs) for source, _, runs in found):
        raise problems[0][1]
    order = {"paper": 0, "hour": 1, "smoke": 3}
    found.sort(key=lambda f: (not _finished(f[2]), order.get(f[1], 2), f[0] != "own"))
    return found, [
        f"Your own results in {shown(size)} are left out: {problem}." for size, problem in problems
    ]


def _finished(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.state == "finished"]


def judge_claims(target: Target, finished: Sequence[Run]) -> list:
    """Each claim's verdict; empty without a finished run. UserError for a measure that its claim cannot be judged by."""
    if not finished:
        return []
    judged = []
    for claim in target.task.claims:
        if any(claim.measure not in run.measures for run in finished):
            judged.append(open_claim(claim.name, len(finished)))
            continue
        values = [run.measures[claim.measure] for run in finished]
        try:
            judged.append(judge_claim(claim.name, values, claim.at_least, claim.at_most, claim.factor))
        except ValueError as error:
            raise _bad(finished[0].folder / "measures.json", str(error)) from None
    return judged


def judge(target: Target, runs: Sequence[Run]) -> tuple[Verdict, list]:
    """The verdict on all claims, and each claim's."""
    finished = _finished(runs)
    if not finished:
        return state("in_progress", "No seed of this size is finished, so there is no verdict yet."), []
    if differences(finished):
        return state(
            "not_averaged",
            "These seeds come from different code, dependencies or settings, so they are not put together. What differs "
            "stands below.",
        ), []
    judged = judge_claims(target, finished)
    paper_size = papers.resolve(target.paper, target.variant_name, target.task.name, "paper").settings
    full = all(run.run["settings"] == paper_size for run in finished)
    return decide_claims(judged, full, "the paper" if target.task.in_paper else "the task"), judged


def overview(target: Target, results: Path) -> tuple[Verdict, str | None, str | None]:
    """(verdict, source, size) of what the page opens on, for the index."""
    found, _ = find_runs(target, results)
    if not found:
        return state("nothing_yet", "Nothing has been run yet."), None, None
    source, size, runs = found[0]
    return judge(target, runs)[0], source, size


# --- what a claim's row says ---


def number(value: float, uncertainty: float | None = None) -> str:
    """Rounded to what the uncertainty allows, else to four digits; very small ones as a power of ten."""
    if value and abs(value) < 1e-4:
        power = math.floor(math.log10(abs(value)))
        return f"{format_number(value / 10**power, 1)} \u00d7 10{str(power).translate(SUPERSCRIPT)}"
    if uncertainty and uncertainty > 1e-6:
        return format_number(value, max(0, decimals_for(uncertainty)))
    digits = 0 if not value else max(0, 3 - math.floor(math.log10(abs(value))))
    return format_number(value, digits)


def bound(claim: papers.Claim) -> str:
    low, high = (
        None if b is None else number(b) if 0 < abs(b) < 1e-4 else as_printed(b)
        for b in (claim.at_least, claim.at_most)
    )
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else f"at most {high}"


def measured(score: Estimate) -> tuple[str, str]:
    """(mean, interval in words)."""
    if score.low is None or score.high is None:
        return number(score.mean), "one seed"
    half = (score.high - score.low) / 2
    if half <= 1e-12 * abs(score.mean):
        return number(score.mean), f"the same in {score.n} seeds"
    return number(score.mean, half), f"{number(score.low, half)} to {number(score.high, half)}"


def claim_rows(target: Target, judged: Sequence, finished: Sequence[Run]) -> list[dict]:
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
                "factor": claim.factor,
            }
        )  # fmt: skip
    return rows


# --- the figures ---


def curves_of(figure: str, runs: Sequence[Run]) -> dict[str, list[tuple[float, float, float, float]]]:
    """series -> (x, median, lowest, highest) over seeds, at every x that all of them have."""
    names = list(dict.fromkeys(series for run in runs for f, series in run.points if f == figure))
    curves = {}
    for name in names:
        tables = [run.points.get((figure, name), {}) for run in runs]
        shared = sorted(set(tables[0]).intersection(*tables[1:]))
        values = [(x, [table[x] for table in tables]) for x in shared]
        curves[name] = [(x, st.median(ys), min(ys), max(ys)) for x, ys in values]
    return {name: curve for name, curve in curves.items() if curve}


def _log_ticks(scale: Scale) -> list[tuple[float, str]]:
    powers = range(math.ceil(scale.low - 1e-9), math.floor(scale.high + 1e-9) + 1)
    if len(powers) >= 2:
        keep = [p for p in powers if len(powers) <= 8 or p % 2 == 0]
        return [(float(p), short_count(10.0**p) if p >= 0 else f"{10.0**p:g}") for p in keep]
    decade = math.floor(scale.low)
    found = [(math.log10(m * 10.0**e), m * 10.0**e) for e in (decade, decade + 1) for m in (1, 2, 5)]
    return [(t, f"{v:g}") for t, v in found if scale.low <= t <= scale.high]


def _ticks(scale: Scale, log: bool) -> list[tuple[float, str]]:
    if log:
        return _log_ticks(scale)
    values = ticks(scale.low, scale.high)
    return list(zip(values, tick_labels(values), strict=True))


def draw(
    figure: dict, curves: dict[str, list[tuple[float, float, float, float]]], height: int = 300
) -> Markup:
    """Medians as lines, lowest to highest as a band."""
    log_x, log_y = figure.get("log_x", False), figure.get("log_y", False)

    def to_x(value: float) -> float:
        return math.log10(value) if log_x else value

    def to_y(value: float) -> float:
        return math.log10(value) if log_y else value

    curves = {
        name: [point for point in curve if (point[0] > 0 or not log_x) and (min(point[1:]) > 0 or not log_y)]
        for name, curve in curves.items()
    }
    xs = [to_x(x) for curve in curves.values() for x, *_ in curve]
    ys = [to_y(y) for curve in curves.values() for _, *values in curve for y in values]
    if not xs:
        return Markup("")
    wide, tall = Scale.around(xs), Scale.around(ys)
    top, bottom = 8, height - 22

    def place(y: float) -> float:
        return round(bottom - (tall(y) - 2) / 96 * (bottom - top), 1)

    body = []
    for value, text in _ticks(tall, log_y):
        body.append(f'<line class="grid" x1="0" x2="100%" y1="{place(value)}" y2="{place(value)}"/>')
        body.append(f'<text class="tick" x="0" y="{place(value) - 3}">{text}</text>')
    for value, text in _ticks(wide, log_x):
        x = wide(value)
        anchor = "start" if x < 6 else "end" if x > 94 else "middle"
        body.append(f'<text class="tick" x="{x}%" y="{height - 6}" text-anchor="{anchor}">{text}</text>')
    body.append(
        f'<svg width="100%" height="{height}" viewBox="0 0 1000 {height}" preserveAspectRatio="none">'
    )
    for index, curve in enumerate(curves.values()):
        css = f"s{index % PALETTE + 1}"
        if any(low != high for _, _, low, high in curve):
            edge = [(x, high) for x, _, _, high in curve] + [(x, low) for x, _, low, _ in reversed(curve)]
            corners = " ".join(f"{wide(to_x(x)) * 10:.1f},{place(to_y(y)):g}" for x, y in edge)
            body.append(f'<polygon class="spread {css}" points="{corners}"/>')
        path = "L".join(f"{wide(to_x(x)) * 10:.1f} {place(to_y(y)):g}" for x, y, _, _ in curve)
        body.append(f'<path class="curve {css}" d="M{path}"/>')
    body.append("</svg>")
    label = f"{figure['title']}: {figure['y']} against {figure['x']}, " + ", ".join(curves)
    return _svg(height, str(escape(label)), body, "still")


def figures_of(target: Target, runs: Sequence[Run]) -> list[dict]:
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


# --- the page ---


def constant_rows(target: Target, runs: Sequence[Run], resolved) -> list[dict]:
    settings = next((run.run["settings"] for run in runs if run.run), resolved.settings if resolved else {})
    rows = []
    for c in target.task.constants:
        ours = settings.get(c.field, c.ours) if c.field else c.ours
        deviates = c.paper is None or not same(ours, c.expected)
        rows.append(
            {
                "name": c.name, "paper": plain_value(c.paper), "unit": c.unit, "source": c.source, "ours": plain_value(ours),
                "deviates": deviates, "reason": (c.reason or "") if deviates else "", "note": c.note,
            }
        )  # fmt: skip
    return rows


def section_of(target: Target, source: str, size: str, runs: list[Run]) -> dict:
    """Everything the template shows about one size."""
    finished = _finished(runs)
    verdict, judged = judge(target, runs)
    resolved, notes = resolved_for(target, size, [run for run in runs if run.run])
    waiting = len(runs) - len(finished)
    more = f"{waiting} more seed{'s are' if waiting > 1 else ' is'} not finished, so not in this verdict."
    return {
        "id": f"{source}-{size}", "source": source, "size": size, "size_name": size_name(size),
        "verdict": verdict, "notes": [*verdict.notes, *([more] if waiting and finished else [])],
        "finished": finished, "seeds": seeds_in_words(len(finished or runs)),
        "expect": papers.expectation(resolved.expect, "cpu") if resolved else None,
        "claims": claim_rows(target, judged, finished) if judged else [],
        "differences": differences(finished) if verdict.key == "not_averaged" else [],
        "figures": figures_of(target, finished) if judged else [],
        "deviations": deviation_rows(target, resolved, notes),
        "constants": constant_rows(target, runs, resolved),
        "provenance": provenance_rows(finished) if finished else [],
        "cost": [(r.seed, duration(r.run["cost"]["seconds"]), _memory(r)) for r in finished],
        "commands": [run.run["provenance"]["command"] for run in finished if run.run["provenance"].get("command")],
        "repeat": repeat_command(target, source, size, runs),
        "check": None, "boards": read_boards([run.folder for run in finished]),
    }  # fmt: skip


def _memory(run: Run) -> str:
    memory = run.run["cost"].get("peak_memory_mb")
    return f"{memory:,} MB" if memory else DASH


def check_weights(target: Target, runs: Sequence[Run]) -> dict | None:
    """What can be measured again from recorded weights, where the paper's folder says how (`measures.check_again`)."""
    run = next((r for r in _finished(runs) if (r.folder / "model.safetensors").exists()), None)
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


def check_again(target: Target, runs: Sequence[Run]) -> dict:
    """The quickest recorded seed, run again here and compared with what is recorded."""
    if (found := check_weights(target, runs)) is not None:
        return found
    run = min(_finished(runs), key=lambda r: r.run["cost"]["seconds"])
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


def compared(run: Run, found: dict[str, float], what: str, started: float, whole: bool = False) -> dict:
    """whole: every recorded measure must be in `found`."""
    head = f"Checked while rendering: {what} ({duration(time.monotonic() - started)}). "
    names = list(run.measures) if whole else list(found)
    off = [name for name in names if found.get(name) != run.measures[name]]
    if not off:
        return {"ok": True, "sentence": f"{head}All {len(names)} measures came out exactly as recorded."}
    worst = max(abs(found.get(n, math.inf) - run.measures[n]) / max(abs(run.measures[n]), 1e-12) for n in off)
    return {
        "ok": False,
        "sentence": f"{head}{len(off)} of {len(names)} measures differ from the recorded ones, by "
        f"{number(worst)} of their value at most; floating-point arithmetic differs between kinds of machines.",
    }


def section_data(section: dict) -> dict:
    """The machine-readable part of one section."""
    return {
        "id": section["id"], "source": section["source"], "size": section["size"], "verdict": section["verdict"].key,
        "seeds": [run.seed for run in section["finished"]],
        "claims": {row["name"]: row["key"] for row in section["claims"]},
        "measures": {str(run.seed): run.measures for run in section["finished"]},
    }  # fmt: skip


def build(
    target: Target, source: str, results: Path, env: jinja2.Environment, budgets: list
) -> tuple[str, dict]:
    """The page's text and its opening section, as `reports.render.build`."""
    found, left_out = find_runs(target, results)
    if source == "recorded":
        found.sort(key=lambda f: f[0] != "recorded" or not _finished(f[2]))
        if not found or found[0][0] != "recorded" or not _finished(found[0][2]):
            raise UserError(
                f"no recorded run of {target.name}; leave out source=recorded to run it (snakemake reports/{target.name}.html)"
            )
    sections = [section_of(target, *item) for item in found]
    if sections:
        sections[0]["notes"] += left_out
    if source == "recorded" and not sections[0]["differences"]:
        sections[0]["check"] = check_again(target, found[0][2])
    head = (
        sections[0]
        if sections
        else {
            "verdict": state("nothing_yet", "Nothing has been run yet for this page."),
            "source": source,
            "size": "none",
        }
    )
    text = env.get_template("laptop.html.j2").render(
        target=target,
        paper=target.paper,
        task=target.task,
        citation=target.paper.citation,
        sections=sections,
        head=head,
        budgets=budgets if not sections else [],
        page=f"reports/{target.name}.html",
        data={"target": target.name, "sections": [section_data(s) for s in sections]},
    )
    return text, head
