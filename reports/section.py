"""Everything the page says about one size: verdict, picture, charts and tables."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from markupsafe import Markup

from common import papers
from common.errors import UserError
from common.evaluation.statistics import as_printed, decimals_for, format_number, format_percent
from common.evaluation.verdict import (
    THRESHOLD,
    Published,
    Verdict,
    decide,
    score_in_words,
    seeds_in_words,
    state,
)
from reports.charts import Chart, Line, PictureRow, picture, series_of, short_count, strips
from reports.data import Run, differences
from reports.outlook import outlook_of
from reports.reference import Reference, reference_of
from reports.tables import (
    constant_rows,
    cost_rows,
    curve_table,
    deviation_rows,
    duration,
    episode_rows,
    noise_sentence,
    other_rows,
    progress_rows,
    protocol_rows,
    provenance_rows,
    same,
    score_rows,
    scored_episodes,
    shortfall_notes,
    shown,
    spread,
    uncertainty,
)  # fmt: skip
from reports.target import Target, value_of

REPLAYED = 10
PICTURES_A_SECOND = 15  # of a video
RUNNING = ("training", "evaluating", "unevaluated")
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


def waiting_verdict(runs: Sequence[Run]) -> Verdict:
    """The state of a size without a finished seed."""
    states = sorted({run.state for run in runs})
    if states == ["failed"]:
        return state("failed", "Training failed before it was done, so there is no verdict.")
    what = (
        "training is done and the evaluation is missing"
        if states == ["unevaluated"]
        else " and ".join(states)
    )
    return state("in_progress", f"No seed of this size is finished ({what}), so there is no verdict yet.")


def verdict_picture(task, verdict: Verdict, finished: Sequence[Run]) -> Markup:
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
        value = format_number(mean, decimals) + (f" ± {format_number(sd, max(0, decimals))}" if band else "")
        rows.append(PictureRow(label, value, mean, "ours", band=band, points=(mean,)))
    else:
        interval = (verdict.score.low, verdict.score.high)
        label = f"Ours, {len(scores)} seeds: 95 % interval"
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


# What the columns of curve.csv are, in the order of their charts. A script may add columns of its own.
COLUMNS = {
    "eval_score": "Evaluation score during training",
    "train_score_100": "Training score, mean of the last 100 episodes",
    "mean_max_q": "Value estimate: mean of max Q over held-out states",
    "value_estimate": "Value estimate",
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


def main_column(runs: Sequence[Run]) -> str:
    """What the large chart shows: evaluation phases, or the training score of a paper that has none."""
    return "eval_score" if any(run.curve.series("eval_score")[0] for run in runs) else "train_score_100"


def measured_returns(runs: Sequence[Run]) -> list[Line]:
    """What the value estimates estimate, as the final evaluation measured it; empty where it did not."""
    episodes = [e for run in runs if run.evaluation for e in run.evaluation["episodes"]]
    returns = [
        e["discounted_return"] for e in episodes if isinstance(e.get("discounted_return"), (int, float))
    ]
    if not returns or len(returns) < len(episodes) or not all(math.isfinite(r) for r in returns):
        return []
    return [Line("discounted return, measured by the final evaluation", sum(returns) / len(returns), "human")]


def charts_of(
    task, runs: Sequence[Run], section: str, average: bool, reference: Reference | None = None, crowd: int = 1
) -> list[Chart]:
    """The main curve and the small ones, for those columns that hold numbers.

    `average`: draw the finished seeds' mean as well.
    """

    def name(run: Run) -> str:
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
    notes = [
        f"This run has a setting that the code no longer has: {name} = {settings[name]}." for name in unknown
    ]
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


def _one_word(text: object, most: int = 40) -> str:
    """Of a file that may come from anywhere, for a line of a comment that is to stay one."""
    return "".join(str(text).split())[:most]


def repeat_command(
    target: Target, source: str, size: str, runs: Sequence[Run], own_settings: bool = False
) -> list[str]:
    """The commands that repeat this section from nothing, and what they leave out. `own_settings`: some were given on the
    command line.
    """
    page = f"reports/{target.name}.html"
    how = f"frames={size[7:]}" if size.startswith("frames-") else f"budget={size}"
    seeds = max((run.seed for run in runs), default=1)
    commits = {run.run["provenance"].get("commit") for run in runs if run.run} - {None, ""}
    changes = {run.run["provenance"].get("diff_sha256") for run in runs if run.run} - {None, ""}
    changed = sorted(_one_word(digest, 16) for digest in changes)
    lines = [f"git checkout {shlex.quote(commits.pop())}"] if len(commits) == 1 else []
    if commits:
        lines.append(
            f"# The seeds were trained at different commits: {', '.join(sorted(map(_one_word, commits)))}"
        )
    if changed:
        lines.append(
            f"# It was changed and not committed (SHA-256 of the changes: {', '.join(changed)}), so this is near, not exact."
        )
    if own_settings:
        lines.append(
            "# Settings were given on the command line: use the command of each run, below, instead."
        )
    if source == "recorded":
        lines = [f"./run snakemake {page} --config source=recorded", "", "# and to train it again:", *lines]
    return [*lines, f"./run snakemake {page} --config {how} seeds={seeds}"]


def videos_of(finished: Sequence[Run]) -> list[dict]:
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
                "said": outlook_of(run, kind),
                "outlook": None,
            }
    return found


def _seconds(run: Run, episode: object) -> float:
    """How long a filmed episode is, at a picture each agent step; a recorded video is only its beginning."""
    episodes = run.evaluation["episodes"]
    if not isinstance(episode, int) or not 0 <= episode < len(episodes):
        return 0.0
    return episodes[episode].get("length", 0) / PICTURES_A_SECOND


def section_of(target: Target, source: str, size: str, runs: list[Run], crowd: int = 1) -> dict:
    """Everything the template shows about one size. `crowd`: see `series_of`."""
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
        verdict = waiting_verdict(runs)
    resolved, resolve_notes = resolved_for(target, size, runs)
    reference = reference_of(target.paper.folder, task.game if task.kind == "atari" else None)
    charts = charts_of(task, runs, ident, average=verdict.score is not None, reference=reference, crowd=crowd)
    rows = episode_rows(finished)
    notes += shortfall_notes(finished)
    lost = sum(run.curve.not_finite for run in runs)
    if lost:
        notes.append(
            f"{lost} {'values' if lost > 1 else 'value'} in the curves: not a finite number, drawn as a gap."
        )
    device = next((run.run["provenance"].get("device", "cpu") for run in trained), "cpu")
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
        "picture": verdict_picture(task, verdict, finished) if finished else None,
        "scores": score_rows(task, verdict, finished),
        "others": other_rows(target),
        "differences": differences(finished) if verdict.key == "not_averaged" else [],
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
        "strips": strips(
            strip_rows,
            [(line.name, line.value, line.css) for line in reference_lines(task) if line.css == "paper"],
            "Every evaluation episode as a dot",
        )
        if rows
        else None,
        "videos": videos_of(finished),
        "constants": constant_rows(target, resolved, runs),
        "deviations": deviation_rows(target, resolved, resolve_notes),
        "protocol": protocol_rows(task, resolved, finished),
        "provenance": provenance_rows(trained) if trained else [],
        "cost": cost_rows(trained),
        "commands": [
            run.run["provenance"].get("command") for run in trained if run.run["provenance"].get("command")
        ],
        "repeat": repeat_command(
            target, source, size, runs, resolved is not None and "command line" in resolved.sources.values()
        ),
        "replay": None,
    }


def replay_check(section: dict) -> dict | None:
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
        "score": v.score
        and {"mean": v.score.mean, "low": v.score.low, "high": v.score.high, "seeds": v.score.n},
        "g": v.g and {"value": v.g.value, "low": finite(v.g.low), "high": finite(v.g.high)},
        "human_normalised": v.normalised and v.normalised.value,
        "fraction_of_paper_frames": v.fraction,
        "seed_scores": {str(run.seed): run.evaluation["score"] for run in section["finished"]},
        "replay": section["replay"] and {k: x for k, x in section["replay"].items() if k != "sentence"},
        "charts": [chart.data() for chart in section["charts"]],
        "films": {video["kind"]: video["outlook"]["data"] for video in section["videos"] if video["outlook"]},
    }
