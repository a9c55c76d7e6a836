"""What the agent's network said of each picture of a video: read from `values.json`, made small, drawn beside the video.

Bars stand at the first picture until a script moves them; a line of the highest value and a table stand for the whole excerpt.
"""

from __future__ import annotations

import base64
import math
import statistics as st

import numpy as np
from markupsafe import Markup, escape

from common.evaluation.statistics import format_number
from reports.curves import significant, thin
from reports.files import read_values
from reports.runs import SeedRun

LEVELS = 65_535  # a value is embedded as one of so many steps between the lowest and the highest
TRACE = 240  # points of the line
ACTION_VALUES, PROBABILITIES = "values", "probabilities"


def film_values(run: SeedRun, film: str) -> dict | None:
    """{kind, fps, actions, played, values} of the median or best film; None where nothing was kept or it is of another evaluation."""
    found = read_values(run.folder / "values.json")
    if found is None or film not in found["films"]:
        return None
    filmed = run.evaluation.get({"median": "video", "best": "best_video"}[film]) or {}
    entry = found["films"][film]
    if found["weights_sha256"] != run.evaluation.get("weights_sha256") or entry["episode"] != filmed.get(
        "episode"
    ):
        return None
    return {key: found[key] for key in ("kind", "fps", "actions")} | {
        key: entry[key] for key in ("played", "values")
    }


def decimals(said: dict) -> int:
    """As many as tell one action from another: two digits of the usual distance between the best and the worst."""
    gap = st.median(max(row) - min(row) for row in said["values"])
    return 2 if gap <= 0 else min(4, max(0, 1 - math.floor(math.log10(gap))))


def scale_of(said: dict) -> tuple[float, float]:
    """Lowest and highest end of the bars: of the whole excerpt, zero included; of probabilities 0 and 1."""
    if said["kind"] == PROBABILITIES:
        return 0.0, 1.0
    values = [v for row in said["values"] for v in row]
    low, high = min(0.0, min(values)), max(0.0, max(values))
    return (low, high) if high > low else (0.0, 1.0)


def in_words(value: float, said: dict, digits: int) -> str:
    return (
        f"{format_number(100 * value, 0)} %"
        if said["kind"] == PROBABILITIES
        else format_number(value, digits)
    )


def excerpt_of(said: dict | None, seconds: float) -> dict | None:
    """The part that goes with the first seconds of a video."""
    if said is None:
        return None
    count = min(round(seconds * said["fps"]), len(said["values"]))
    return said | {key: said[key][:count] for key in ("played", "values")} if count else None


def embedded(said: dict) -> dict:
    """For the script: little-endian 16-bit levels between `low` and `high`, picture by picture, and the action played."""
    values = np.array(said["values"], dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    levels = np.rint((values - low) / ((high - low) or 1.0) * LEVELS).astype("<u2")
    ends = scale_of(said)
    return {
        "kind": said["kind"], "fps": said["fps"], "actions": said["actions"], "decimals": decimals(said),
        "low": significant(low, 7), "high": significant(high, 7), "from": significant(ends[0], 7), "to": significant(ends[1], 7),
        "levels": base64.b64encode(levels.tobytes()).decode(),
        "played": base64.b64encode(np.array(said["played"], dtype=np.uint8).tobytes()).decode(),
    }  # fmt: skip


def size(said: dict) -> int:
    """Characters on the page, or a few more: 16 bits each in base64, and what is drawn."""
    count, actions = len(said["values"]), len(said["actions"])
    return math.ceil(count * (2 * actions + 1) * 4 / 3) + 14 * TRACE + 700 * actions + 2500


def bar_rows(said: dict) -> list[dict]:
    """The bars of the first picture: name, left edge and width in per cent, value in words, whether played and the best."""
    low, high = scale_of(said)
    row, played, digits = said["values"][0], said["played"][0], decimals(said)
    zero = min(max(0.0, low), high)
    found = []
    for i, (name, value) in enumerate(zip(said["actions"], row, strict=True)):
        a, b = sorted((zero, value))
        left, width = 100 * (a - low) / (high - low), 100 * (b - a) / (high - low)
        found.append(
            {
                "name": name, "left": round(left, 2), "width": round(width, 2), "value": in_words(value, said, digits),
                "played": i == played, "best": value == max(row),
            }
        )  # fmt: skip
    return found


def summary_rows(said: dict) -> list[tuple[str, ...]]:
    """(action, how often it was played, mean, lowest, highest) over the excerpt."""
    digits, count = decimals(said), len(said["played"])
    rows = []
    for i, name in enumerate(said["actions"]):
        column = [row[i] for row in said["values"]]
        figures = (st.fmean(column), min(column), max(column))
        share = f"{format_number(100 * said['played'].count(i) / count, 0)} %"
        rows.append((name, share, *(in_words(v, said, digits) for v in figures)))
    return rows


def explored(said: dict) -> str:
    """In how many pictures another action than the one of highest value was played."""
    if said["kind"] == PROBABILITIES:
        return "The action played is drawn with these probabilities."
    odd = sum(row[a] < max(row) for row, a in zip(said["values"], said["played"], strict=True))
    share = f"in {format_number(100 * odd / len(said['played']), 0)} % of these pictures"
    return f"Where another action than the best is played, the protocol\u2019s epsilon drew it at random: {share}."


def trace(said: dict) -> Markup:
    """The highest action value over the excerpt as a line, with a cursor for the script to move; empty for probabilities."""
    if said["kind"] == PROBABILITIES or len(said["values"]) < 2:
        return Markup("")
    best = [max(row) for row in said["values"]]
    xs, ys = thin(list(range(len(best))), best, TRACE)
    low, high = min(best), max(best)
    span, digits = (high - low) or 1.0, decimals(said)
    path = "L".join(
        f"{1000 * x / (len(best) - 1):.0f} {44 - 38 * (y - low) / span:.1f}"
        for x, y in zip(xs, ys, strict=True)
    )
    ends = (format_number(low, digits), format_number(high, digits))
    label = f"The highest action value over the excerpt: between {ends[0]} and {ends[1]}"
    return Markup(
        f'<svg class="trace" width="100%" height="50" role="img" aria-label="{escape(label)}">'
        f'<svg width="100%" height="50" viewBox="0 0 1000 50" preserveAspectRatio="none"><path d="M{path}"/></svg>'
        '<line class="cursor" x1="0" x2="0" y1="0" y2="50"/></svg>'
    )


def shown_values(said: dict) -> dict:
    """Everything the template shows beside one video."""
    low, high = scale_of(said)
    return {
        "kind": said["kind"],
        "bars": bar_rows(said),
        "zero": round(100 * (min(max(0.0, low), high) - low) / (high - low), 2),
        "trace": trace(said),
        "range": [format_number(end(map(max, said["values"])), decimals(said)) for end in (min, max)],
        "rows": summary_rows(said),
        "explored": explored(said),
        "data": embedded(said),
    }
