"""The tables of one size: plain rows of text, ready for the template."""

from __future__ import annotations

import csv
import math
import statistics as st
from collections.abc import Callable, Sequence

from common.evaluation.statistics import (
    DASH,
    FEW,
    as_printed,
    decimals_for,
    format_mean,
    format_number,
    format_percent,
    standard_error,
)
from common.evaluation.verdict import Verdict, ratio_in_words, score_in_words, seeds_in_words
from common.papers.settings import constants_of
from reports.files import evaluate_command
from reports.reference import Reference
from reports.runs import SeedRun
from reports.scores import episode_scores, score_is, score_of, scored_episodes, scores_are, spread
from reports.target import PageTarget, value_of
from reports.words import (
    as_good_as_equal,
    duration,
    plain_value,
    protocol_name,
    same_or_each,
    short_count,
    silence,
)


def score_rows(task, verdict: Verdict, finished: Sequence[SeedRun]) -> list[dict]:
    """Ours, the paper's, human and random play, with what each is."""
    rows = []
    human, random = value_of(task.human), value_of(task.random)

    def add(
        who: str,
        raw: float,
        value: str,
        what: str,
        css: str,
        normalised: str | None = None,
        interval: str = "",
    ) -> None:
        if normalised is None and None not in (human, random) and human != random:
            normalised = format_percent((raw - random) / (human - random))
        row = {"who": who, "raw": raw, "value": value, "what": what, "css": css}
        rows.append({**row, "normalised": normalised or DASH, "interval": interval.strip()})

    if verdict.score is not None and len(finished) > 1:
        share = ratio_in_words(verdict.normalised) if verdict.normalised else ()
        how = "95 % interval" if verdict.score.method == "Student" else "whose scores are bounded"
        if len(finished) <= FEW:
            each = ", ".join(format_number(score, 1) for score in verdict.score.seeds)
            how = f"{how}; each: {each}"
        what = (
            f"mean over {seeds_in_words(len(finished))}, {how}; a seed's score is the {scores_are(finished)}"
        )
        add("Ours", verdict.score.mean, score_in_words(verdict.score), what, "ours", *share)
    else:
        for run in finished:
            scores, score = scored_episodes(run), run.evaluation["score"]
            value = format_mean(score, standard_error(spread(scores), len(scores)))
            add(
                "Ours" if len(finished) == 1 else f"Ours, seed {run.seed}",
                score,
                value,
                score_is(run),
                "ours",
            )
    for who, row in (("The paper", task.published), ("Human", task.human), ("Random play", task.random)):
        if row is None:
            continue
        value = as_printed(row.value) + (f" ± {as_printed(row.stdev)}" if row.stdev is not None else "")
        metric = f"{row.metric.replace('_', ' ')}, " if who == "The paper" else ""
        what = (
            "mean ± sd; " if row.stdev is not None else ""
        ) + f"{metric}{protocol_name(row.protocol)}; {row.file}"
        if who == "The paper":
            n = task.protocol.published_episodes
            error = standard_error(row.stdev, n)
            what += (
                f"; standard error {format_number(error, decimals_for(error))} over its {n} {task.protocol.published_over}"
                if error
                else ""
            )
            what += " (between its own seeds: unknown)" if error else "; its standard error is unknown"
        name = task.protocol.published_by or who if who == "The paper" else who
        add(name, row.value, value, what, who.split()[-1].lower() if who != "Random play" else "random")
    return rows


def other_rows(target: PageTarget) -> list[dict]:
    """What else the paper's table holds for this game, and whether it was measured by the protocol of the row that we
    compare with.
    """
    task = target.task
    used = {(row.metric, row.protocol) for row in (task.published, task.random, task.human) if row}
    table = target.paper.folder / (task.published.file if task.published else "published.csv")
    if not table.is_file():
        return []
    with open(table, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("game") == (task.game or task.name)]
    found = []
    for row in rows:
        if (row["metric"], row["protocol"]) in used:
            continue
        spread = f" ± {as_printed(float(row['stdev']))}" if row.get("stdev") else ""
        found.append(
            {
                "metric": row["metric"],
                "value": as_printed(float(row["value"])) + spread,
                "protocol": protocol_name(row["protocol"]),
                "comparable": task.published is not None and row["protocol"] == task.published.protocol,
            }
        )
    return sorted(found, key=lambda row: (not row["comparable"], row["metric"]))


def episode_rows(finished: Sequence[SeedRun]) -> list[dict]:
    rows = []
    for run in finished:
        in_score = score_of(run)[0] == "evaluation_mean"
        for kind, key in (("protocol", "episodes"), ("extra", "extra_episodes")):
            scores = episode_scores(run, key)
            if not scores:
                continue
            sd = spread(scores)
            se = standard_error(sd, len(scores))
            rows.append(
                {
                    "seed": run.seed,
                    "kind": "further, not in the score"
                    if kind == "extra"
                    else "the protocol's"
                    if in_score
                    else "after training, not in the score",
                    "in_score": in_score,
                    "n": len(scores),
                    "mean": format_mean(st.fmean(scores), se),
                    "raw_mean": st.fmean(scores),
                    "sd": format_number(sd, decimals_for(sd)),
                    "se": format_number(se, decimals_for(se)),
                    "min": format_number(min(scores), 1),
                    "median": format_number(st.median(scores), 1),
                    "max": format_number(max(scores), 1),
                    "scores": scores,
                    "css": kind,
                    "list": " ".join(f"{s:g}" for s in scores),
                }
            )
    return rows


def noise_sentence(rows: Sequence[dict]) -> str | None:
    """How far the further episodes' mean stands from the protocol's, in words, over all seeds."""
    by = {(row["seed"], row["css"]): row for row in rows}
    pairs = [
        (by[s, "protocol"], by[s, "extra"]) for s, kind in by if kind == "protocol" and (s, "extra") in by
    ]
    if not pairs:
        return None
    if not all(a["in_score"] for a, _ in pairs):
        return None  # the score is of the training
    if len(pairs) == 1:
        a, b = pairs[0]
        return (
            f"How noisy that is: the {a['n']} episodes of the score average {a['mean']}, {b['n']} further ones "
            f"of the same weights {b['mean']} (standard errors {a['se']} and {b['se']})."
        )
    gaps = [abs(a["raw_mean"] - b["raw_mean"]) for a, b in pairs]
    return (
        f"How noisy that is: over {len(pairs)} seeds, the mean of the further episodes of the same weights differs "
        f"from the score by {format_number(st.fmean(gaps), 2)} on average and {format_number(max(gaps), 2)} at most."
    )


def constant_rows(target: PageTarget, resolved, runs: Sequence[SeedRun]) -> list[dict]:
    """The paper's constants, or of a script of its own the task's, beside ours; those that stand among the deviations are left out."""
    own = target.task.script != "train"
    trained = next((run.run["settings"] for run in runs if run.run), None)
    settings = trained or (resolved.settings if resolved else {})
    reasons = {d.field or d.what: d.reason for d in resolved.deviations} if resolved and not own else {}
    told = {name for d in resolved.deviations for name in (d.field, d.what) if name} if resolved else set()
    rows = []
    for constant in constants_of(target.paper, target.task):
        if (constant.field or constant.name) in told:
            continue
        ours = settings.get(constant.field, constant.ours) if constant.field else constant.ours
        deviates = constant.paper is None or not as_good_as_equal(ours, constant.expected)
        unit = f" {constant.field_unit}" if constant.field_unit != constant.unit and not own else ""
        rows.append(
            {
                "name": constant.name,
                "paper": plain_value(constant.paper),
                "unit": constant.unit,
                "source": constant.source,
                "ours": plain_value(ours) + unit,
                "deviates": deviates,
                "reason": (reasons.get(constant.field or constant.name) or constant.reason or "")
                if deviates
                else "",
                "note": constant.note,
            }
        )
    return rows


def deviation_rows(target: PageTarget, resolved, notes: Sequence[str]) -> list[dict]:
    rows = []
    for d in resolved.deviations if resolved else []:
        change = None
        if d.origin != "listed":
            unit = f" {d.unit}" if d.unit else ""
            change = f"{plain_value(d.ours)} instead of {plain_value(d.paper)}{unit}"
            if d.paper is None:
                change = f"{plain_value(d.ours)}{unit}, which the paper does not say"
        rows.append(
            {"what": d.what, "change": change, "reason": d.reason, "source": d.source, "origin": d.origin}
        )
    if not resolved:
        rows += [
            {**d, "change": None, "origin": None, "source": d.get("source")} for d in target.paper.deviations
        ]
    return rows + [
        {"what": note, "change": None, "reason": "", "source": None, "origin": None} for note in notes
    ]


def protocol_rows(task, resolved, finished: Sequence[SeedRun]) -> list[tuple[str, str]]:
    """The protocol as evaluated (from the evaluation itself where there is one)."""
    protocol = resolved.protocol if resolved else task.protocol
    used = finished[0].evaluation["protocol"] if finished else {}

    def get(key: str) -> object:
        return used.get(key, getattr(protocol, key, None))

    frames = get("max_frames")
    minutes = (
        f"{frames:,} frames ({frames / 3600:g} minutes of play)"
        if isinstance(frames, int)
        else plain_value(frames)
    )
    weights = {"best": "those with the best evaluation phase during training", "last": "the last ones"}.get(
        get("weights")
    )
    asked = task.protocol.episodes
    episodes = get("episodes")
    steps = [(r.evaluation or {}).get("weights_agent_step") for r in finished]
    if finished and any(s is not None for s in steps):
        weights = f"{weights} (agent step {', '.join(short_count(s) for s in steps[:10])}{' …' if len(steps) > 10 else ''})"
    rows = [
        ("Starts", protocol.starts),
        ("No-op actions at the start, at most", plain_value(get("noop_max"))),
        ("Epsilon", plain_value(get("epsilon"))),
        ("Episode cap", minutes),
        (
            "Episodes",
            f"{plain_value(episodes)}" + (f" (the protocol asks for {asked})" if episodes != asked else ""),
        ),
        (
            "Further episodes",
            plain_value(get("extra_episodes")) if not isinstance(get("extra_episodes"), list) else "",
        ),
        ("Weights", weights or plain_value(get("weights"))),
        ("In words", protocol.description),
        ("Source", protocol.source),
    ]
    if task.published is not None:
        rows.append(("Protocol of the published score", protocol_name(task.published.protocol)))
    return [(name, value) for name, value in rows if value not in (None, "", DASH)]


def provenance_rows(runs: Sequence[SeedRun]) -> list[tuple[str, str]]:
    def short(value: str | None, length: int = 16) -> str | None:
        return value[:length] if value else None

    def hardware(run: SeedRun) -> str:
        h = run.run["provenance"].get("hardware", {})
        parts = [h.get("cpu"), f"{h['cores']} cores" if h.get("cores") else None]
        parts += [f"{h['memory_gb']} GB memory" if h.get("memory_gb") else None, h.get("gpu")]
        return ", ".join(str(p) for p in parts if p)

    def versions(run: SeedRun) -> str:
        return ", ".join(f"{k} {v}" for k, v in sorted(run.run["provenance"].get("versions", {}).items()))

    def field(key: str) -> Callable[[SeedRun], object]:
        return lambda run: run.run["provenance"].get(key)

    def yes(run: SeedRun) -> str | None:
        value = run.run["provenance"].get("deterministic")
        return None if value is None else "yes" if value else "no"

    rows = [
        ("Commit", field("commit")),
        ("Uncommitted changes (SHA-256)", lambda r: short(field("diff_sha256")(r)) or "none"),
        ("Code fingerprint", lambda r: short(field("code_sha256")(r))),
        ("Dependency lock", lambda r: short(field("lock_sha256")(r))),
        ("ROM checksum", lambda r: short(field("rom_sha256")(r))),
        ("Settings key", lambda r: r.run.get("settings_key")),
        ("Weights (SHA-256)", lambda r: short((r.evaluation or {}).get("weights_sha256"))),
        ("Versions", versions),
        ("Hardware", hardware),
        ("Device", field("device")),
        ("Threads", field("threads")),
        ("Deterministic algorithms", yes),
        *trained_between(runs),
        ("Notes", lambda r: "; ".join(str(n) for n in field("notes")(r) or [])),
    ]
    return [(name, read if isinstance(read, str) else same_or_each(runs, read)) for name, read in rows]


def trained_between(runs: Sequence[SeedRun]) -> list[tuple[str, str]]:
    """The days of the first start and the last end, over all seeds."""
    times = [run.run["provenance"].get(key) for run in runs for key in ("started", "finished")]
    days = sorted(str(time)[:10] for time in times if time)
    return [("Trained", days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")] if days else []


def cost_rows(runs: Sequence[SeedRun]) -> list[list[str]]:
    rows = []
    for run in runs:
        cost, progress, result = run.run["cost"], run.run["progress"], run.run.get("result", {})
        memory = cost.get("peak_memory_mb")
        rows.append(
            [
                str(run.seed),
                short_count(progress["frames"]),
                short_count(progress["agent_steps"]),
                short_count(progress.get("updates")),
                short_count(progress.get("episodes")),
                duration(cost.get("seconds")),
                str(cost.get("attempts", DASH)),
                format_number(cost.get("steps_per_second"), 0),
                f"{format_number(memory / 1000, 1)} GB" if memory else DASH,
                duration(cost.get("evaluation_seconds")),
                {"length": "at its full length", "reached": "early: stood at the published score"}.get(
                    result.get("stopped"), DASH
                ),
            ]
        )
    return rows


def state_in_words(run: SeedRun) -> str:
    if run.state != "unevaluated":
        return run.state
    if evaluate_command(run.folder):
        return "trained, not evaluated yet"
    return "trained, and neither its evaluation.json nor its weights are here: copy one of them from where it was made"


def progress_rows(runs: Sequence[SeedRun], reference: Reference | None = None) -> list[dict]:
    """Where unfinished seeds stand, from their status files, and whether they are on the reference's course."""
    rows = []
    for run in runs:
        if run.state == "finished":
            continue
        status = run.status or {}
        done, total, rate = run.agent_steps, status.get("training_steps"), status.get("steps_per_second")
        known = isinstance(total, (int, float)) and total > 0
        quiet = silence(status.get("updated")) if run.state in ("training", "evaluating") else None
        scores = [(x, y) for x, y in zip(*run.curve.series("train_score_100"), strict=True) if y is not None]
        left = (
            (total - done) / rate
            if known and isinstance(rate, (int, float)) and rate > 0 and run.state == "training" and not quiet
            else None
        )
        rows.append(
            {
                "seed": run.seed,
                "state": state_in_words(run),
                "steps": f"{done:,}" + (f" of {total:,} agent steps" if known else " agent steps"),
                "share": min(1.0, done / total) if known else None,
                "rate": f"{rate:,.0f} steps/s" if isinstance(rate, (int, float)) else None,
                "left": duration(left) if left is not None else None,
                "updated": status.get("updated"),
                "message": status.get("message"),
                "quiet": quiet,
                "course": reference.course(*scores[-1]) if reference and scores else None,
                "evaluation_missing": run.state == "unevaluated",
                "command": evaluate_command(run.folder) if run.state == "unevaluated" else None,
            }
        )
    return rows


def curve_table(runs: Sequence[SeedRun], column: str = "eval_score", most: int = 40) -> dict | None:
    """The main curve as a table of at most `most` rows: every k-th evaluation phase and the last."""
    curves = {run.seed: dict(zip(*run.curve.series(column), strict=True)) for run in runs}
    curves = {seed: curve for seed, curve in curves.items() if curve}
    xs = sorted({x for curve in curves.values() for x in curve})
    if not xs:
        return None
    step = math.ceil(len(xs) / most)
    chosen = xs[::step] if xs[-1] in xs[::step] else [*xs[::step], xs[-1]]
    rows = [[f"{x:,.0f}", *(format_number(curve.get(x), 2) for curve in curves.values())] for x in chosen]
    return {"seeds": list(curves), "rows": rows, "step": step, "total": len(xs)}
