"""The verdict: from seed scores and the published row to one of a few fixed words, a sentence and a colour.

Pure functions, no files. The rules, in order:

1. nothing printed to compare with -> no_published (a stated bar of our own may be counted)
2. the published margin over random play is too small to measure by -> not_testable
3. fewer than 3 seeds, or shorter than the paper's runs -> reached / not_reached: a statement about this run only; below half
   of the paper's length what is not reached is too_short
4. 3 seeds or more at the paper's length: the 95 % interval of g = (ours - random) / (published - random) against 0.9
   -> replicated / not_replicated / undecided
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from common.evaluation.ranges import ANYTHING
from common.evaluation.statistics import (
    Estimate,
    Ratio,
    as_printed,
    decimals_for,
    estimate_in_words,
    format_number,
    format_percent,
    human_normalised,
    published_ratio,
    seed_interval,
    share_interval,
    standard_error,
)

THRESHOLD = 0.9  # of the paper's margin over random play
FAR_ABOVE = 1.5
MIN_SEEDS = 3
LONG_ENOUGH = 0.5  # of the paper's length; what a shorter run does not reach says nothing
MIN_MARGIN = 0.05  # of |human - random|

# key -> (word on the badge, colour class in the page's style sheet)
WORDS = {
    "replicated": ("Replicated", "good"),
    "not_replicated": ("Not replicated", "bad"),
    "undecided": ("Undecided", "open"),
    "reached": ("Reached by this run", "run-good"),
    "not_reached": ("Not reached by this run", "run-bad"),
    "too_short": ("Too short to judge", "short"),
    "not_testable": ("Not testable", "none"),
    "no_published": ("No published score", "none"),
    "own_settings": ("Settings of your own", "none"),
    "not_averaged": ("Runs differ: not averaged", "warn"),
    "in_progress": ("In progress", "wait"),
    "failed": ("Failed", "warn"),
    "nothing_yet": ("Nothing run yet", "wait"),
    "damaged": ("Damaged results", "warn"),
}


@dataclass(frozen=True)
class Published:
    """One printed score: `value`, its printed standard deviation and the `n` behind that, None where not printed.

    by: whose number it is, where it is not the paper's own.
    """

    value: float
    stdev: float | None = None
    n: int | None = None
    by: str | None = None

    @property
    def in_words(self) -> str:
        whose = f"the published score of {self.by} is" if self.by else "the paper reports"
        return f"{whose} {as_printed(self.value)}"

    @property
    def standard_error(self) -> float | None:
        return standard_error(self.stdev, self.n)


@dataclass(frozen=True)
class Verdict:
    """`key` is machine-readable; `sentence` says it in words; `g` and `normalised` are None where they do not exist."""

    key: str
    sentence: str
    word: str
    colour: str
    score: Estimate | None = None
    g: Ratio | None = None
    normalised: Ratio | None = None
    fraction: float | None = None  # of the paper's frames, by the shortest seed
    bar_reached: tuple[int, int] | None = None  # seeds at or above our own bar, of how many
    notes: tuple[str, ...] = ()


def state(key: str, sentence: str, notes: Sequence[str] = ()) -> Verdict:
    """A page state without scores to judge: nothing_yet, in_progress or not_averaged."""
    word, colour = WORDS[key]
    return Verdict(key, sentence, word, colour, notes=tuple(notes))


def of_own_settings(found: Verdict, settings: str) -> Verdict:
    """`found` without its judgement: of runs with `settings` (in words) that the paper does not have."""
    word, colour = WORDS["own_settings"]
    sentence = f"These runs have settings of your own: {settings}. They say nothing about the paper"
    score = "" if found.score is None else f"; their score is {score_in_words(found.score)}"
    return replace(
        found, key="own_settings", sentence=f"{sentence}{score}.", word=word, colour=colour, g=None, notes=()
    )


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def seeds_in_words(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def whole_length(by: str | None, printed: bool = True) -> str:
    """The length that runs are measured by. `by`: whose scores the paper's agents are compared with, where not its own.

    printed: this agent has such a score.
    """
    if not by:
        return "the paper's length"
    return "the length of the scores compared with" if printed else "a whole run"


def _length_in_words(fraction: float | None, by: str | None) -> str:
    if fraction is None:
        return "a training whose length cannot be compared with the paper's"
    if by:
        share = "a training" if fraction >= 1 else format_percent(fraction)
        return f"{share} of {whole_length(by)},"
    if fraction >= 1:
        return "the paper's full training"
    return f"{format_percent(fraction)} of the paper's training"


def _scored(ours: Estimate) -> str:
    """`this agent scores -17.8`, `these 3 agents score 18.5 ± 0.4`."""
    return f"{'this agent scores' if ours.n == 1 else f'these {ours.n} agents score'} {score_in_words(ours)}"


def ratio_in_words(g: Ratio) -> tuple[str, str]:
    """(`98.4 %`, ` (95 % interval 97.1 to 100.0 %)`), rounded to what the interval allows; the second is empty for
    one seed.
    """
    if g.low is None or g.high is None:
        return format_percent(g.value), ""
    if math.isinf(g.low):
        return format_percent(
            g.value
        ), " (the 95 % interval is unbounded: the published margin is too uncertain)"
    decimals = min(2, max(0, decimals_for(50 * (g.high - g.low))))
    value, low, high = (format_number(100 * x, decimals) for x in (g.value, g.low, g.high))
    return f"{value} %", f" (95 % interval {low} to {high} %)"


def margin_too_small(published: Published, random: float, human: float | None) -> str | None:
    """Why a ratio to (published - random) would mean nothing, or None.

    The margin is signed: below random is too small as well.
    """
    margin = published.value - random
    error = published.standard_error
    if human is not None and human != random and margin < MIN_MARGIN * abs(human - random):
        share = format_percent(margin / abs(human - random))
        return f"the published score stands above random play by {share} of the human margin, less than 5 %"
    if error is not None and error > 0 and margin <= 2 * error:
        return f"the published score is within twice its own standard error ({format_number(error, 2)}) of random play"
    if margin <= 0:
        return "the published score is not above random play"
    return None


def decide(
    scores: Sequence[float],
    *,
    published: Published | None,
    random: float | None,
    human: float | None = None,
    frames: Sequence[int] = (),
    paper_frames: int | None = None,
    published_reason: str | None = None,
    bar: float | None = None,
    episodes: int | None = None,
    protocol_episodes: int | None = None,
    bounds: tuple[float, float] = ANYTHING,
) -> Verdict:
    """The verdict on one task from one score per seed.

    `frames`: emulator frames each seed trained for (the shortest counts). `episodes` of `protocol_episodes`: how many
    evaluation episodes the scores come from; with fewer than the protocol asks for, the paper's length does not count
    as reached. `bar`: our own stated score for tasks without a published one. `bounds`: the lowest and highest score that
    can be; no interval leaves them. Raises ValueError without scores or with one that is not finite.
    """
    bounds = min(bounds[0], *scores, math.inf), max(bounds[1], *scores, -math.inf)
    ours = seed_interval(scores, bounds=bounds)
    n = ours.n
    fraction = min(frames) / paper_frames if frames and paper_frames else None
    normalised = (
        human_normalised(ours, random, human) if None not in (random, human) and random != human else None
    )
    notes: list[str] = []

    def verdict(key: str, sentence: str, g: Ratio | None = None, **more) -> Verdict:
        word, colour = WORDS[key]
        return Verdict(key, sentence, word, colour, ours, g, normalised, fraction, notes=tuple(notes), **more)

    if published is None:
        reason = f" ({published_reason.rstrip('.')})" if published_reason else ""
        none = f"no score is published to compare with{reason}"
        if bar is None:
            return verdict("no_published", f"{capital(_scored(ours))}; {none}.")
        reached = sum(score >= bar for score in scores)
        share = ""
        if n > 1:
            low, high = (format_number(100 * x, 0) for x in share_interval(reached, n))
            share = f" (95 % interval of that share: {low} to {high} %)"
        sentence = (
            f"{capital(_scored(ours))}; {reached} of {n} reach {as_printed(bar)}, a bar of our own{share}. "
            f"{capital(none)}."
            if n > 1
            else f"{capital(_scored(ours))} and {'reaches' if reached else 'does not reach'} {as_printed(bar)}, a bar of our "
            f"own. {capital(none)}."
        )
        return verdict("no_published", sentence, bar_reached=(reached, n))
    if random is None:
        return verdict(
            "not_testable",
            "Not testable: no score of random play is given to measure the published score from.",
        )
    why = margin_too_small(published, random, human)
    if why:
        return verdict(
            "not_testable", f"Not testable: {why}, so the share of it that a run reaches means nothing."
        )

    g = published_ratio(ours, published.value, random, published.stdev, published.n)
    if g.low is not None and math.isfinite(g.low):
        ends = [(bound - random) / (published.value - random) for bound in bounds]
        g = Ratio(g.value, max(g.low, ends[0]), min(g.high, ends[1]))
    if published.standard_error is None:
        ours_alone = "" if g.low is None else ", so the interval carries only ours"
        notes.append(f"The published score's own error is not printed (unknown){ours_alone}.")
    if g.value > FAR_ABOVE:
        notes.append(
            f"Far above: check the protocol. This is {format_percent(g.value)} of the published margin over random."
        )
    short = fraction is None or fraction < 1
    few_episodes = None not in (episodes, protocol_episodes) and episodes < protocol_episodes
    if few_episodes:
        notes.append(f"Evaluated on {episodes} of the protocol's {protocol_episodes} episodes.")
    point, interval = ratio_in_words(g)
    lead = (
        f"After {_length_in_words(fraction, published.by)} {_scored(ours)}; {published.in_words}, "
        f"random play {as_printed(random)}."
    )
    notes.insert(
        0,
        f"That is {point} of the way from random play to the published score{interval}; from 90 % on, a line of ours, it "
        "counts as reached.",
    )

    if n < MIN_SEEDS or short or few_episodes:
        far = fraction is not None and fraction < LONG_ENOUGH
        key = "reached" if g.value >= THRESHOLD else "too_short" if far else "not_reached"
        who = "this run" if n == 1 else "these runs"
        missing = [
            m
            for m, lacks in (("3 seeds or more", n < MIN_SEEDS), (whole_length(published.by), short))
            if lacks
        ]
        missing += ["the whole evaluation"] if few_episodes else []
        notes.append(f"A statement about {who}, not about the paper: that takes {' and '.join(missing)}.")
        did = {
            "reached": "That reaches the published score.",
            "not_reached": "That does not reach the published score.",
            "too_short": "",
        }
        return verdict(key, f"{lead} {did[key]}".strip(), g)

    whose = f"the published score of {published.by}" if published.by else "the published score"
    if g.low >= THRESHOLD:
        notes.insert(1, "The whole interval is at or above 90 %.")
        return verdict("replicated", f"{capital(whose)} holds. {lead}", g)
    if g.high < THRESHOLD:
        notes.insert(1, "The whole interval is below 90 %.")
        return verdict("not_replicated", f"{capital(whose)} was not replicated. {lead}", g)
    notes.insert(1, "The interval holds 90 %; more seeds would narrow it.")
    return verdict("undecided", f"Undecided. {lead}", g)


def score_in_words(ours: Estimate) -> str:
    """`18.5 ± 0.4` over seeds (half the 95 % interval), or the one seed's score; see `estimate_in_words`."""
    return estimate_in_words(ours)


def score_alone(ours: Estimate) -> str:
    """The same mean, rounded the same, without its interval."""
    return re.split(r" [±(]| in each seed", estimate_in_words(ours))[0]


# --- a task with claims ---


@dataclass(frozen=True)
class Judged:
    """One claim over seeds. key: holds, fails or open (the interval holds a bound); one seed is judged by its value.

    score: mean and interval of the measure; where it is a ratio, of its logarithm, turned back.
    """

    name: str
    key: str
    score: Estimate
    values: tuple[float, ...]

    @property
    def deterministic(self) -> bool:
        """Every seed gives the same: nothing in it is random, and many seeds say no more than one."""
        return len(self.values) > 1 and len(set(self.values)) == 1


def judge_claim(
    name: str, values: Sequence[float], at_least: float | None, at_most: float | None, factor: bool = False
) -> Judged:
    """at_least <= measure <= at_most, by the 95 % Student interval over seeds. Raises ValueError for a ratio that is not above 0."""
    if factor and min(values) <= 0:
        raise ValueError(f"claim {name!r}: {min(values)} is no ratio")
    score = seed_interval([math.log(value) for value in values] if factor else values)
    if factor:
        low, high = (None if x is None else math.exp(x) for x in (score.low, score.high))
        score = Estimate(math.exp(score.mean), score.n, score.sd, low, high)
    low, high = (score.mean, score.mean) if score.low is None else (score.low, score.high)
    bottom, top = -math.inf if at_least is None else at_least, math.inf if at_most is None else at_most
    key = "holds" if bottom <= low and high <= top else "fails" if high < bottom or low > top else "open"
    return Judged(name, key, score, tuple(values))


def open_claim(name: str, seeds: int) -> Judged:
    """A claim whose measure could not be taken in one seed or more: open, without a figure."""
    return Judged(name, "open", Estimate(math.nan, seeds), ())


def decide_claims(
    claims: Sequence[Judged], full: bool, whose: str = "the paper", words: Mapping[str, str] | None = None
) -> Verdict:
    """The verdict on a task with claims. `full`: the runs have the paper's own size; `whose`: "the task" where it is not in the paper.

    At 3 seeds or more and the paper's size: replicated if every claim holds, not_replicated if one fails, else undecided.
    """
    n = min(claim.score.n for claim in claims)
    by = {key: [claim.name for claim in claims if claim.key == key] for key in ("holds", "fails", "open")}
    one = len(claims) == 1
    all_claims = "the claim" if one else f"all {len(claims)} claims"
    count = f"{len(by['holds'])} of {len(claims)} claims"
    size = f"at {whose}'s own size" if full else f"at less than {whose}'s size"
    missing = [m for m, lacks in (("3 seeds or more", n < MIN_SEEDS), (f"{whose}'s size", not full)) if lacks]
    words = words or {}
    notes = tuple(
        f"{title}: {(words.get(name) or name).rstrip('.')}."
        for key, title in (("fails", "Fails"), ("open", "Open"))
        for name in by[key]
    )

    def verdict(key: str, sentence: str, notes: tuple[str, ...] = notes) -> Verdict:
        return Verdict(key, sentence, *WORDS[key], notes=notes)

    if missing:
        who = "This run" if n == 1 else "These runs"
        about = f"A statement about {who.lower()}, not about the paper: that takes {' and '.join(missing)}."
        if not by["fails"] and not by["open"]:
            return verdict(
                "reached",
                f"{who} ({seeds_in_words(n)} {size}) did what {all_claims} {'says' if one else 'say'}.",
                (*notes, about),
            )
        return verdict(
            "not_reached" if full else "too_short",
            f"{who} ({seeds_in_words(n)} {size}) did {'not do what the claim says' if one else f'what {count} say'}.",
            (*notes, about),
        )
    fixed = sum(claim.deterministic for claim in claims)
    over = f"over {seeds_in_words(n)} {size}, each by its whole 95 % interval"
    if fixed == len(claims):
        over = f"{size}; nothing in them is random, so they came out the same with every seed"
    elif fixed:
        came = "one came" if fixed == 1 else f"{fixed} came"
        over = f"over {seeds_in_words(n)} {size}, by the whole 95 % interval; {came} out the same with every seed"
    if by["fails"]:
        return verdict(
            "not_replicated", f"Not all claims were replicated: {count} hold {over}, {len(by['fails'])} not."
        )
    if by["open"]:
        unmeasured = any(not claim.values for claim in claims)
        why = "the interval of the others holds a bound" + (
            ", or they could not be measured" if unmeasured else ""
        )
        return verdict("undecided", f"Undecided: {count} hold {over}; {why}.")
    return verdict(
        "replicated", f"{all_claims[0].upper()}{all_claims[1:]} {'holds' if one else 'hold'} {over}."
    )
