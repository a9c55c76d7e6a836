"""Everything the page says about one size: verdict, picture, charts and tables."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from markupsafe import Markup

from common import papers
from common.errors import UserError
from common.statistics import as_printed, decimals_for, format_number, format_percent
from common.verdict import THRESHOLD, Published, Verdict, decide, score_in_words, seeds_in_words, state
from reports.charts import Chart, Line, PictureRow, picture, series_of, short_count, strips
from reports.data import Run, differences
from reports.tables import (
    constant_rows,
    cost_rows,
    curve_table,
    deviation_rows,
    duration,
    episode_rows,
    episode_scores,
    noise_sentence,
    progress_rows,
    protocol_rows,
    provenance_rows,
    same,
    score_is,
    score_rows,
    shown,
    spread,
    uncertainty,
)  # fmt: skip
from reports.target import Target, value_of

REPLAYED = 10
# Settings that name a run rather than change what is learned.
IDENTITY = {"seed", "device", "task", "budget", "variant", "results"}


def published_of(task) -> Published | None:
    if task.published is None:
        return None
    return Published(task.published.value, task.published.stdev, task.protocol.published_episodes)


def verdict_of(task, finished: Sequence[Run]) -> Verdict:
    """The verdict of finished seeds; runs whose code, lock, ROM, settings or protocol differ are not averaged."""
    if differences(list(finished)):
        return state(
            "not_averaged",
            "These seeds come from different code, dependencies, ROM or settings, so they are shown one by one and not "
            "averaged. What differs stands below.",
        )
    return decide(
        [run.evaluation["score"] for run in finished],
        published=published_of(task),
        random=value_of(task.random),
        human=value_of(task.human),
        frames=[run.run["progress"]["frames"] for run in finished],
        paper_frames=task.paper_frames,
        published_reason=task.published_reason,
        bar=task.bar,
        episodes=min(len(run.evaluation["episodes"]) for run in finished),
        protocol_episodes=task.protocol.episodes,
    )


def verdict_picture(task, verdict: Verdict, finished: Sequence[Run], recorded: bool) -> Markup:
    """Ours, the paper's, human and random play on one axis."""
    scores = [run.evaluation["score"] for run in finished]
    decimals = decimals_for(uncertainty(verdict, finished) if verdict.score else None)
    rows = []
    if verdict.score is None:
        value = ", ".join(format_number(s, decimals) for s in scores[:5]) + (" …" if len(scores) > 5 else "")
        rows.append(PictureRow("Ours, not averaged", value, None, "ours", points=tuple(scores)))
    elif len(scores) == 1:
        sd, mean = spread(episode_scores(finished[0])), scores[0]
        band = (mean - sd, mean + sd) if sd is not None else None
        name = "Our recorded run" if recorded else "This run"
        label = f"{name}: {score_is(finished[0])}" + (" ± sd" if band else "")
        value = format_number(mean, decimals) + (f" ± {format_number(sd, max(0, decimals))}" if band else "")
        rows.append(PictureRow(label, value, mean, "ours", band=band, points=(mean,)))
    else:
        interval = (verdict.score.low, verdict.score.high)
        label = f"{'Our recorded runs' if recorded else 'These runs'}: {len(scores)} seeds, 95 % interval"
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
        label = "The paper: mean ± sd" if band else "The paper"
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
            "90 % of the paper's margin over random play",
            task.random.value + THRESHOLD * (task.published.value - task.random.value),
        )
    return picture(rows, line, "; ".join(f"{row.label}: {row.value}" for row in rows))


def reference_lines(task) -> list[Line]:
    lines = []
    if task.published is not None:
        lines.append(Line("the paper's score", task.published.value, "paper"))
    elif task.bar is not None:
        lines.append(Line("our stated bar", task.bar, "paper"))
    if task.random is not None:
        lines.append(Line("random play", task.random.value, "random"))
    return lines


def charts_of(task, runs: Sequence[Run], section: str, average: bool) -> list[Chart]:
    """The main curve and the small ones, for those columns that hold numbers.

    `average`: draw the finished seeds' mean as well.
    """

    def name(run: Run) -> str:
        return f"seed {run.seed}" + ("" if run.state == "finished" else f" ({run.state})")

    def chart(column: str, title: str, lines: list[Line], caption: str = "", small: bool = True) -> Chart | None:
        found = [(run, *run.curve.series(column)) for run in runs]
        found = [(run, xs, ys) for run, xs, ys in found if xs]
        if not found:
            return None
        averaged = [average and run.state == "finished" for run, _, _ in found]
        series = series_of([(name(run), xs, ys) for run, xs, ys in found], averaged, small)
        return Chart(f"{section}-{column}", title, series, lines, caption, small)

    lines = reference_lines(task)
    wanted = [
        chart(
            "eval_score", "Evaluation score during training", lines, "Mean score of each evaluation phase.", small=False
        ),
        chart("train_score_100", "Training score, mean of the last 100 episodes", lines),
        chart("mean_max_q", "Value estimate: mean of max Q", []),
        chart("loss", "Loss", []),
        chart("epsilon", "Exploration: epsilon", []),
        chart("learning_rate", "Learning rate", []),
    ]
    found = [c for c in wanted if c is not None]
    # A schedule that never moves is a constant, and those have their table.
    return [c for c in found if not (c.id.endswith("-learning_rate") and _flat(c))]


def _flat(chart: Chart) -> bool:
    ys = [y for series in chart.series for y in series.ys if y is not None]
    return max(ys) - min(ys) <= 1e-9 * max(abs(y) for y in ys)


def resolved_for(target: Target, size: str, runs: Sequence[Run]):
    """The settings of this size as the paper's file has them now, with the run's own differences taken as given on
    the command line.

    Returns (resolved or None, notes). A recorded run may carry settings that today's code no longer has.
    """
    variant, task = target.variant_name, target.task.name
    try:
        plain = papers.resolve(target.paper, variant, task, size)
    except UserError as error:
        return None, [f"The settings of this size cannot be derived from the paper's file: {error}"]
    trained = [run for run in runs if run.run]
    if not trained:
        return plain, []
    settings = trained[0].run["settings"]
    unknown = sorted(set(settings) - set(plain.settings) - IDENTITY)
    notes = [f"This run has a setting that the code no longer has: {name} = {settings[name]}." for name in unknown]
    overrides = {
        name: value
        for name, value in settings.items()
        if name in plain.settings and name not in IDENTITY and not same(value, plain.settings[name])
    }
    if not overrides:
        return plain, notes
    try:
        return papers.resolve(target.paper, variant, task, size, overrides), notes
    except UserError as error:
        return plain, [*notes, f"This run differs from what this size resolves to now: {error}"]


def size_name(size: str) -> str:
    return f"{short_count(int(size[7:]))} frames" if size.startswith("frames-") else size


def repeat_command(target: Target, source: str, size: str, runs: Sequence[Run]) -> list[str]:
    """The commands that repeat this section from nothing."""
    page = f"reports/{target.name}.html"
    how = f"frames={size[7:]}" if size.startswith("frames-") else f"budget={size}"
    seeds = max((run.seed for run in runs), default=1)
    commits = {run.run["provenance"].get("commit") for run in runs if run.run} - {None, ""}
    lines = [f"git checkout {shlex.quote(commits.pop())}"] if len(commits) == 1 else []
    if source == "recorded":
        lines = [f"./run snakemake {page} --config source=recorded", "", "# and to train it again:", *lines]
    return [*lines, f"./run snakemake {page} --config {how} seeds={seeds}"]


def section_of(target: Target, source: str, size: str, runs: list[Run]) -> dict:
    """Everything the template shows about one size."""
    task, ident = target.task, f"{source}-{size}"
    finished = [run for run in runs if run.state == "finished"]
    waiting = [run for run in runs if run.state != "finished"]
    trained = [run for run in runs if run.run]
    notes: list[str] = []
    if finished:
        verdict = verdict_of(task, finished)
        if waiting:
            notes.append(
                f"{len(waiting)} more {'seeds are' if len(waiting) > 1 else 'seed is'} not finished, so not in this "
                "verdict."
            )
    else:
        states = sorted({run.state for run in runs})
        what = "training is done and the evaluation is missing" if states == ["unevaluated"] else " and ".join(states)
        verdict = state("in_progress", f"No seed of this size is finished ({what}), so there is no verdict yet.")
    resolved, resolve_notes = resolved_for(target, size, runs)
    charts = charts_of(task, runs, ident, average=verdict.score is not None)
    rows = episode_rows(finished)
    lost = sum(run.curve.not_finite for run in runs)
    if lost:
        notes.append(f"{lost} {'values' if lost > 1 else 'value'} in the curves: not a finite number, drawn as a gap.")
    device = next((run.run["provenance"].get("device", "cpu") for run in trained), "cpu")
    middle = None
    if finished:
        ordered = sorted(finished, key=lambda r: r.evaluation["score"])
        with_video = [r for r in ordered if r.video]
        median = ordered[(len(ordered) - 1) // 2]
        middle = median if median.video else with_video[(len(with_video) - 1) // 2] if with_video else None
    video = (middle.evaluation.get("video") or {}) if middle else {}
    strip_rows = [
        (
            f"seed {r['seed']}: {r['n']}{' further' if r['css'] == 'extra' else ''} episodes, mean {r['mean']}",
            r["css"],
            r["scores"],
        )
        for r in rows
    ]
    return {
        "id": ident,
        "source": source,
        "size": size,
        "size_name": size_name(size),
        "label": f"{size_name(size)}, {'recorded' if source == 'recorded' else 'your own'}",
        "verdict": verdict,
        "notes": [*verdict.notes, *notes],
        "finished": finished,
        "agent_steps": max(run.agent_steps for run in (finished or runs)),
        "seeds": seeds_in_words(len(finished or runs)),
        "expect": papers.expectation(resolved.expect, str(device)) if resolved else None,
        "fraction": format_percent(verdict.fraction) if verdict.fraction is not None else None,
        "picture": verdict_picture(task, verdict, finished, source == "recorded") if finished else None,
        "scores": score_rows(task, verdict, finished),
        "differences": differences(finished) if verdict.key == "not_averaged" else [],
        "progress": progress_rows(runs),
        "charts": charts,
        "curve_table": curve_table(runs),
        "curve_files": [shown(run.folder / "curve.csv") for run in trained],
        "episodes": rows,
        "noise": noise_sentence(rows),
        "strips": strips(
            strip_rows,
            [(line.name, line.value, line.css) for line in reference_lines(task) if line.css == "paper"],
            "Every evaluation episode as a dot",
        )
        if rows
        else None,
        "video_run": middle,
        "video": None,
        "video_note": None,
        "video_score": format_number(video["score"], 1) if isinstance(video.get("score"), (int, float)) else None,
        "constants": constant_rows(target, resolved, runs),
        "deviations": deviation_rows(target, resolved, resolve_notes),
        "protocol": protocol_rows(task, resolved, finished),
        "provenance": provenance_rows(trained) if trained else [],
        "cost": cost_rows(trained),
        "commands": [run.run["provenance"].get("command") for run in trained if run.run["provenance"].get("command")],
        "repeat": repeat_command(target, source, size, runs),
        "replay": None,
    }


def replay_check(section: dict) -> dict | None:
    """Ten recorded episodes played again from the recorded weights, or why that cannot be done."""
    from common.evaluation import replay_recorded  # loads torch, which a page without a check does not need

    kept = [run for run in section["finished"] if (run.folder / "model.safetensors").is_file()]
    if not kept:
        return {
            "sentence": "No weights were kept with this recorded run, so its episodes cannot be replayed here.",
            "ok": False,
        }
    run = kept[0]
    result = replay_recorded(run.folder, episodes=REPLAYED)
    replayed, identical = result["replayed"], result["identical"]
    recorded_mean, replayed_mean = (format_number(result[key], 2) for key in ("recorded_mean", "replayed_mean"))
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


def section_data(section: dict) -> dict:
    """The machine-readable part of one section."""
    v: Verdict = section["verdict"]

    def finite(x: float | None) -> float | None:
        return x if x is not None and math.isfinite(x) else None

    return {
        "id": section["id"],
        "source": section["source"],
        "size": section["size"],
        "verdict": v.key,
        "score": v.score and {"mean": v.score.mean, "low": v.score.low, "high": v.score.high, "seeds": v.score.n},
        "g": v.g and {"value": v.g.value, "low": finite(v.g.low), "high": finite(v.g.high)},
        "human_normalised": v.normalised and v.normalised.value,
        "fraction_of_paper_frames": v.fraction,
        "seed_scores": {str(run.seed): run.evaluation["score"] for run in section["finished"]},
        "replay": section["replay"] and {k: x for k, x in section["replay"].items() if k != "sentence"},
        "charts": [chart.data() for chart in section["charts"]],
    }
