"""What a page says about one size of a training: picture, charts, films and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from common.evaluation.ranges import score_range
from common.evaluation.statistics import (
    as_printed,
    decimals_for,
    format_mean,
    format_number,
    format_percent,
)
from common.evaluation.verdict import THRESHOLD, Verdict, score_in_words
from common.papers import Resolved, Task
from reports.charts import PictureRow, picture, strips
from reports.curves import Chart, Line, series_of, within
from reports.film_values import film_values
from reports.grids import grid_values
from reports.reference import Reference, reference_of
from reports.rows import (
    cost_rows,
    curve_table,
    episode_rows,
    noise_sentence,
    other_rows,
    progress_rows,
    protocol_rows,
    score_rows,
)
from reports.runs import SeedRun, finished_of
from reports.scores import length_of, scored_episodes, shortfall_notes, spread, uncertainty
from reports.target import PageTarget
from reports.words import duration, shown

REPLAYED = 10


PICTURES_A_SECOND = 15  # of a video


RUNNING = ("training", "evaluating", "unevaluated")


def verdict_picture(task, verdict: Verdict, finished: Sequence[SeedRun]) -> Markup:
    """Ours, the paper's, human and random play on one axis."""
    scores = [run.evaluation["score"] for run in finished]
    decimals = decimals_for(uncertainty(verdict, finished) if verdict.score else None)
    rows = []
    if verdict.score is None:
        value = ", ".join(format_number(s, decimals) for s in scores[:5]) + (" …" if len(scores) > 5 else "")
        rows.append(PictureRow("Ours, not averaged", value, None, "ours", points=tuple(scores)))
    elif len(scores) == 1:
        sd, mean = spread(scored_episodes(finished[0])), scores[0]
        band = (mean - sd, mean + sd) if sd is not None else None
        label = "Ours: mean ± sd" if band else "Ours"
        value = format_mean(mean, uncertainty(verdict, finished))
        value += f" ± {format_number(sd, max(0, decimals))}" if band else ""
        rows.append(PictureRow(label, value, mean, "ours", band=band, points=(mean,)))
    else:
        interval = (verdict.score.low, verdict.score.high) if verdict.score.sd else None
        label = f"Ours, {len(scores)} seeds: 95 % {'bootstrap ' if verdict.score.method == 'bootstrap' else ''}interval"
        rows.append(
            PictureRow(
                label,
                score_in_words(verdict.score),
                verdict.score.mean,
                "ours",
                interval=interval,
                points=tuple(scores),
            )
        )
    if task.published is not None:
        row = task.published
        decimals = 1 if row.stdev is None else decimals_for(row.stdev)
        band = (row.value - row.stdev, row.value + row.stdev) if row.stdev is not None else None
        whose = task.protocol.published_by or "The paper"
        label = f"{whose}: mean ± sd" if band else whose
        value = as_printed(row.value) + (f" ± {as_printed(row.stdev)}" if band else "")
        rows.append(PictureRow(label, value, row.value, "paper", band=band))
    if task.published is None and task.bar is not None:
        rows.append(PictureRow("Our stated bar", as_printed(task.bar), task.bar, "paper"))
    for name, row in (("Human", task.human), ("Random play", task.random)):
        if row is not None:
            rows.append(PictureRow(name, as_printed(row.value), row.value, name.split()[0].lower()))
    line = None
    if task.published is not None and task.random is not None and verdict.key != "not_testable":
        line = (
            "90 % of the published margin over random play",
            task.random.value + THRESHOLD * (task.published.value - task.random.value),
        )
    return picture(rows, line, "; ".join(f"{row.label}: {row.value}" for row in rows))


def reference_lines(task) -> list[Line]:
    lines = []
    if task.published is not None:
        whose = task.protocol.published_by
        lines.append(
            Line(f"score of {whose}" if whose else "the paper's score", task.published.value, "paper")
        )
    elif task.bar is not None:
        lines.append(Line("our stated bar", task.bar, "paper"))
    if task.random is not None:
        lines.append(Line("random play", task.random.value, "random"))
    return lines


# What the columns of curve.csv are, in the order of their charts. A script may add columns of its own.
COLUMNS = {
    "eval_score": "Evaluation score during training",
    "train_score_100": "Training score, mean of the last 100 episodes",
    "mean_max_q": "Value estimate: mean of max Q over held-out states",
    "value_estimate": "Value estimate",
    "mean_q": "Value estimate: mean of Q(s, \N{GREEK SMALL LETTER MU}(s)) over minibatches",
    "loss": "Loss",
    "policy_loss": "Policy loss",
    "value_loss": "Value loss",
    "entropy": "Entropy of the policy, nats",
    "approx_kl": "Change of the policy by its updates: approximate KL divergence, nats",
    "clip_fraction": "Share of probability ratios that were clipped",
    "explained_variance": "Variance of returns explained by the value function",
    "gradient_norm": "Norm of the gradient",
    "epsilon": "Exploration: epsilon",
    "learning_rate": "Learning rate",
}


COUNTS = {"agent_steps", "frames", "updates", "episodes", "eval_episodes", "hours"}


def column_title(name: str) -> str:
    words = name.replace("_", " ")
    return COLUMNS.get(name, words[:1].upper() + words[1:])


def main_column(runs: Sequence[SeedRun]) -> str:
    """What the large chart shows: evaluation phases, or the training score of a paper that has none."""
    return "eval_score" if any(run.curve.series("eval_score")[0] for run in runs) else "train_score_100"


def measured_returns(runs: Sequence[SeedRun]) -> list[Line]:
    """What the value estimates estimate, as the final evaluation measured it; empty where it did not."""
    episodes = [e for run in runs if run.evaluation for e in run.evaluation["episodes"]]
    returns = [
        e["discounted_return"] for e in episodes if isinstance(e.get("discounted_return"), (int, float))
    ]
    if not returns or len(returns) < len(episodes) or not all(math.isfinite(r) for r in returns):
        return []
    return [Line("discounted return, measured by the final evaluation", sum(returns) / len(returns), "human")]


def charts_of(
    task,
    runs: Sequence[SeedRun],
    section: str,
    average: bool,
    reference: Reference | None = None,
    crowd: int = 1,
) -> list[Chart]:
    """The main curve and the small ones, for those columns that hold numbers.

    `average`: draw the finished seeds' mean as well.
    """

    def name(run: SeedRun) -> str:
        return f"seed {run.seed}" + ("" if run.state == "finished" else f" ({run.state})")

    def chart(column: str, lines: list[Line], small: bool = True) -> Chart | None:
        found = [(run, *run.curve.series(column)) for run in runs]
        found = [(run, xs, ys, run.curve.series("hours")[1]) for run, xs, ys in found if xs]
        if not found:
            return None
        averaged = [average and run.state == "finished" for run, *_ in found]
        series = series_of(
            [(name(run), xs, ys, hours) for run, xs, ys, hours in found], averaged, small, crowd
        )
        if column in ("eval_score", "train_score_100"):
            series = [within(s, score_range(task)) for s in series]
        if reference and not small:
            beside = reference.series(max(x for _, xs, *_ in found for x in xs))
            series += [beside] if beside else []
        return Chart(f"{section}-{column}", column_title(column), series, lines, "", small)

    lines = reference_lines(task)
    main = main_column(runs)
    known = list(dict.fromkeys([main, *COLUMNS, *(name for run in runs for name in run.curve.columns)]))
    wanted = [name for name in known if name not in COUNTS]
    lines_of = {name: lines for name in ("eval_score", "train_score_100")}
    lines_of |= {name: measured_returns(runs) for name in ("mean_max_q", "value_estimate")}
    charts = [chart(name, lines_of.get(name, []), name != main) for name in wanted]
    # A schedule that never moves is a constant, and those have their table.
    return [c for c in charts if c is not None and not (c.id.endswith("-learning_rate") and _flat(c))]


def _flat(chart: Chart) -> bool:
    ys = [y for series in chart.series for y in series.ys if y is not None]
    return max(ys) - min(ys) <= 1e-9 * max(abs(y) for y in ys)


def videos_of(finished: Sequence[SeedRun]) -> list[dict]:
    """The median and the best episode of the median seed (or the seed nearest to it with a recording)."""
    ordered = sorted(finished, key=lambda r: r.evaluation["score"])
    with_video = [r for r in ordered if r.video]
    if not with_video:
        return []
    median = ordered[(len(ordered) - 1) // 2]
    run = median if median.video else with_video[(len(with_video) - 1) // 2]
    found = []
    for kind, path, key in (("median", run.video, "video"), ("best", run.best_video, "best_video")):
        filmed = run.evaluation.get(key) or {}
        score = filmed.get("score")
        if path:
            number = format_number(score, 1) if isinstance(score, (int, float)) else None
            which = "nearest" if run is not median else "median" if len(finished) > 1 else "only"
            found.append(
                {"kind": kind, "path": path, "score": number, "seed": run.seed, "which": which, "src": None}
            )
            found[-1] |= {
                "whole": _seconds(run, filmed.get("episode")),
                "said": film_values(run, kind),
                "film": None,
            }
    return found


def _seconds(run: SeedRun, episode: object) -> float:
    """How long a filmed episode is, at a picture each agent step; a recorded video is only its beginning."""
    episodes = run.evaluation["episodes"]
    if not isinstance(episode, int) or not 0 <= episode < len(episodes):
        return 0.0
    return episodes[episode].get("length", 0) / PICTURES_A_SECOND


def details(
    target: PageTarget,
    ident: str,
    runs: Sequence[SeedRun],
    verdict: Verdict,
    resolved: Resolved | None,
    crowd: int = 1,
) -> dict:
    """What only a training's section has. `crowd`: see `series_of`."""
    task = target.task
    finished = finished_of(runs)
    trained = [run for run in runs if run.run]
    reference = reference_of(target.paper.folder, task.game if task.kind == "atari" else None)
    charts = charts_of(task, runs, ident, average=verdict.score is not None, reference=reference, crowd=crowd)
    rows = episode_rows(finished)
    notes = shortfall_notes(finished)
    lost = sum(run.curve.not_finite for run in runs)
    if lost:
        notes.append(
            f"{lost} {'values' if lost > 1 else 'value'} in the curves: not a finite number, drawn as a gap."
        )
    return {
        "notes": notes,
        "agent_steps": max(run.agent_steps for run in (finished or runs)),
        "fraction": f"{format_percent(verdict.fraction)} of {length_of(task)}"
        if verdict.fraction is not None
        else None,
        "picture": verdict_picture(task, verdict, finished) if finished else None,
        "scores": score_rows(task, verdict, finished),
        "others": other_rows(target),
        "progress": progress_rows(runs, reference),
        "running": any(run.state in RUNNING for run in runs),
        "charts": charts,
        "curve_table": curve_table(runs, main_column(runs)),
        "curve_title": column_title(main_column(runs)),
        "hours": any(series.hours for c in charts for series in c.series),
        "reference": reference.description
        if reference and any(series.css == "reference" for chart in charts for series in chart.series)
        else None,
        "curve_files": [shown(run.folder / "curve.csv") for run in trained],
        "episodes": rows,
        "noise": noise_sentence(rows),
        "strips": episode_strips(task, rows) if rows else None,
        "videos": videos_of(finished),
        "grid": grid_values(target, finished),
        "protocol": protocol_rows(task, resolved, finished),
        "cost": cost_rows(trained),
        "replay": None,
    }


def episode_strips(task: Task, rows: Sequence[dict]) -> Markup:
    named = [
        (
            f"seed {r['seed']}: {r['n']}{' further' if r['css'] == 'extra' else ''} episodes, mean {r['mean']}",
            r["css"],
            r["scores"],
        )
        for r in rows
    ]
    lines = [(line.name, line.value, line.css) for line in reference_lines(task) if line.css == "paper"]
    return strips(named, lines, "Every evaluation episode as a dot")


def replay_check(section: dict) -> dict:
    """Ten recorded episodes played again from the recorded weights, or why that cannot be done."""
    from common.evaluation.protocol import (
        replay_recorded,
    )  # loads torch, which a page without a check does not need

    kept = [run for run in section["finished"] if (run.folder / "model.safetensors").is_file()]
    if not kept:
        return {
            "sentence": "No weights were kept with this recorded run, so its episodes cannot be replayed here.",
            "ok": False,
        }
    run = kept[0]
    if run.superseded:
        return {"sentence": f"Its episodes are not played again here: {run.superseded}.", "ok": False}
    result = replay_recorded(run.folder, episodes=REPLAYED)
    replayed, identical = result["replayed"], result["identical"]
    recorded_mean, replayed_mean = (
        format_number(result[key], 2) for key in ("recorded_mean", "replayed_mean")
    )
    means = f"recorded mean {recorded_mean}, replayed mean {replayed_mean}"
    head = f"Checked while rendering: {replayed} recorded episodes of seed {run.seed} were played again "
    head += f"from the recorded weights ({duration(result.get('seconds'))} on {result.get('device', 'this machine')}). "
    if identical == replayed:
        return {
            **result,
            "seed": run.seed,
            "ok": True,
            "sentence": f"{head}All {replayed} gave exactly the recorded score ({means}).",
        }
    why = (
        "Floating-point arithmetic differs between kinds of machines, and one different action changes the rest "
        "of an episode; on the recording machine all should be equal, elsewhere the means should agree."
    )
    sentence = f"{head}{identical} of {replayed} gave exactly the recorded score ({means}). {why}"
    return {**result, "seed": run.seed, "ok": False, "sentence": sentence}


def data(section: dict) -> dict:
    """The machine-readable part of one section, beside what all sections have."""
    v: Verdict = section["verdict"]

    def finite(x: float | None) -> float | None:
        return x if x is not None and math.isfinite(x) else None

    return {
        "score": v.score
        and {"mean": v.score.mean, "low": v.score.low, "high": v.score.high, "seeds": v.score.n},
        "g": v.g and {"value": v.g.value, "low": finite(v.g.low), "high": finite(v.g.high)},
        "human_normalised": v.normalised and v.normalised.value,
        "fraction_of_paper_frames": v.fraction,
        "seed_scores": {str(run.seed): run.evaluation["score"] for run in section["finished"]},
        "replay": section["replay"] and {k: x for k, x in section["replay"].items() if k != "sentence"},
        "charts": [chart.data for chart in section["charts"]],
        "films": {video["kind"]: video["film"]["data"] for video in section["videos"] if video["film"]},
    }
