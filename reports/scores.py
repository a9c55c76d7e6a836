"""A seed's score: what it is, what it is made of, where it falls short of the protocol; and the verdict on several."""

from __future__ import annotations

import math
import statistics as st
from collections.abc import Sequence

from common import papers
from common.errors import UserError
from common.evaluation.ranges import score_range
from common.evaluation.statistics import FEW, standard_error
from common.evaluation.verdict import (
    Judged,
    Published,
    Verdict,
    decide,
    decide_claims,
    judge_claim,
    open_claim,
    state,
    whole_length,
)
from reports.files import read_curve
from reports.runs import SeedRun, differences, finished_of
from reports.target import PageTarget, value_of

WINDOW = 100  # training episodes that a score of the training asks for


def length_of(task: papers.Task) -> str:
    """What a share of the task's whole length is a share of, in words."""
    return whole_length(task.protocol.published_by, printed=task.published is not None)


def score_of(run: SeedRun) -> tuple[str, int | None]:
    """(kind, number of episodes) of a seed's score, as it was made: fewer than WINDOW training episodes may have ended.

    An evaluation of before it said so tells the kind of the protocol; the count is then that of the run.
    """
    played = len(run.evaluation["episodes"])
    stated = run.evaluation.get("score_of")
    if stated:
        return stated["kind"], stated["episodes"]
    kind = run.evaluation["protocol"].get("score", "evaluation_mean")
    if kind == "last_100_episodes":
        ended = run.run["progress"].get("episodes", WINDOW)
        return (kind, min(WINDOW, ended)) if ended else ("evaluation_mean", played)
    if kind == "best_phase" and run.run.get("result", {}).get("best_score", 0) is None:
        return "evaluation_mean", played
    return kind, None if kind == "best_phase" else played


def score_is(run: SeedRun) -> str:
    """What a seed's score is, in words."""
    kind, count = score_of(run)
    if kind == "best_phase":
        return "best evaluation phase"
    if kind == "last_100_episodes":
        return f"mean of the last {count} training episodes"
    return f"mean of {count} episodes"


def scores_are(runs: Sequence[SeedRun]) -> str:
    """`score_is` of several seeds; where they differ, of each."""
    words = {run.seed: score_is(run) for run in runs}
    if len(set(words.values())) == 1:
        return words[runs[0].seed]
    return "; ".join(f"of seed {seed} the {text}" for seed, text in words.items())


def shortfall(run: SeedRun) -> str | None:
    """Why a score is not what the protocol says it is, where it is not."""
    asked = run.evaluation["protocol"].get("score", "evaluation_mean")
    kind, count = score_of(run)
    if asked == "last_100_episodes" and kind == asked and count < WINDOW:
        return f"the mean of the last {count} training episodes: fewer than the protocol's {WINDOW} had ended"
    if asked == "last_100_episodes" and kind != asked:
        return f"the mean of {count} evaluation games: no training episode had ended, and the protocol asks for {WINDOW}"
    if asked == "best_phase" and kind != asked:
        return f"the mean of {count} evaluation games: no evaluation phase saw a game end"
    return None


def shortfall_notes(runs: Sequence[SeedRun]) -> list[str]:
    """One sentence for all seeds whose score falls short in the same way."""
    seeds: dict[str, list[int]] = {}
    for run in runs:
        why = shortfall(run)
        if why:
            seeds.setdefault(why, []).append(run.seed)
    notes = []
    for why, who in seeds.items():
        of = "" if len(runs) == 1 else f" of seed{'s' if len(who) > 1 else ''} {', '.join(map(str, who))}"
        notes.append(f"The score{of} is {why}.")
    return notes


def episode_scores(run: SeedRun, key: str = "episodes") -> list[float]:
    return [episode["score"] for episode in run.evaluation.get(key) or []]


def spread(scores: Sequence[float]) -> float | None:
    """Standard deviation of episodes; None of fewer than five, which tell nothing of it."""
    return st.stdev(scores) if len(scores) >= FEW else None


def scored_episodes(run: SeedRun) -> list[float]:
    """The episodes whose mean is the score: of the evaluation, or the last ones of the training; empty where they are not
    kept.
    """
    kind, count = score_of(run)
    if kind == "evaluation_mean":
        return episode_scores(run)
    if kind != "last_100_episodes" or not count:
        return []
    try:
        rows = read_curve(run.folder / "episodes.csv", live=True).columns.get("score", [])[-count:]
    except UserError:  # it informs, no more
        return []
    whole = len(rows) == count and None not in rows
    return (
        rows
        if whole and math.isclose(st.fmean(rows), run.evaluation["score"], rel_tol=1e-6, abs_tol=1e-6)
        else []
    )


def uncertainty(verdict: Verdict, finished: Sequence[SeedRun]) -> float | None:
    """What our score is rounded to: half the interval over seeds; for one seed, its episodes' standard error."""
    if verdict.score and verdict.score.high is not None:
        return max(verdict.score.high - verdict.score.mean, verdict.score.mean - verdict.score.low)
    scores = scored_episodes(finished[0])
    return standard_error(spread(scores), len(scores))


def published_of(task) -> Published | None:
    if task.published is None:
        return None
    protocol = task.protocol
    return Published(
        task.published.value, task.published.stdev, protocol.published_episodes, protocol.published_by
    )


def verdict_of(task, finished: Sequence[SeedRun]) -> Verdict:
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
        bounds=score_range(task),
    )


def waiting_verdict(runs: Sequence[SeedRun]) -> Verdict:
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


def judge_claims(target: PageTarget, finished: Sequence[SeedRun]) -> list[Judged]:
    """Each claim's verdict; empty without a finished run."""
    if not finished:
        return []
    judged = []
    for claim in target.task.claims:
        if any(claim.measure not in run.measures for run in finished):
            judged.append(open_claim(claim.name, len(finished)))
            continue
        values = [run.measures[claim.measure] for run in finished]
        judged.append(judge_claim(claim.name, values, claim.at_least, claim.at_most, claim.factor))
    return judged


def judge(target: PageTarget, runs: Sequence[SeedRun]) -> tuple[Verdict, list[Judged]]:
    """The verdict on the runs of one size; and of a task with claims on each claim."""
    finished = finished_of(runs)
    if not target.task.claims:
        return (verdict_of(target.task, finished) if finished else waiting_verdict(runs)), []
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
    full = all(papers.settings_of(run.run, target.paper, target.task) == paper_size for run in finished)
    whose, words = (
        "the paper" if target.task.in_paper else "the task",
        {c.name: c.statement for c in target.task.claims},
    )
    return decide_claims(judged, full, whose, words), judged
