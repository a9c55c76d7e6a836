"""Numbers, lengths and names as a reader is told them."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from common import papers
from common.evaluation.statistics import DASH, Estimate, as_printed, decimals_for, format_number


def short_count(value: float | None) -> str:
    """2000000 is `2 M`, 38400 is `38.4 k`."""
    if value is None:
        return DASH
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return format_number(value / size, 2).rstrip("0").rstrip(".") + unit
    return format_number(value, 0)


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} days"


def same_or_each(runs: Sequence[Any], read: Callable[[Any], object]) -> str:
    """One value where all seeds agree, else `seed 1: a; seed 2: b`."""
    values = [read(run) for run in runs]
    texts = [DASH if v is None or v == "" else str(v) for v in values]
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"seed {run.seed}: {text}" for run, text in zip(runs, texts, strict=True))


def plain_value(value: object) -> str:
    """A setting for a reader: 1,000,000 and 0.00025, never 2.5e-04."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.10f}".rstrip("0").rstrip(".") if 1e-7 < abs(value) < 1e9 else f"{value:g}"
    if isinstance(value, (list, tuple)):
        return " x ".join(plain_value(v) for v in value)
    return str(value)


def shown(path: Path) -> str:
    """A path as a reader of this checkout would type it."""
    return os.path.relpath(path)


def size_name(size: str) -> str:
    base = papers.budget_of(size)
    words = f"{short_count(int(base[7:]))} frames" if base.startswith("frames-") else base
    return words if base == size else f"{words}, settings of your own"


SILENT = 300  # seconds: a training writes its status every ten, an evaluation phase may take minutes


WORDS_OF_PROTOCOLS = (
    (r"noop(\d+)", r"up to \1 no-ops at the start"),
    (r"(\d+)(?:min|m)", r"at most \1 minutes of play"),
    (r"eps([\d.]+)", r"epsilon \1"),
    (r"(\d+)ep", r"\1 episodes"),
    (r"(\d+)hz", r"\1 actions a second"),
    (r"(\d+)h", r"\1 hours"),
    (r"(\d+)seeds", r"\1 seeds"),
    (r"last(\d+)", r"the last \1 episodes"),
    (r"train", "in training"),
    (r"([\d.]+)M(frames|steps)", r"\1 million \2"),
)


def protocol_name(name: str) -> str:
    """`up to 30 no-ops at the start, at most 5 minutes of play, epsilon 0.05, 30 episodes` of `noop30_5min_eps0.05_30ep`."""
    parts: list[str] = []
    for word in name.split("_"):
        told = next((re.sub(f"^{p}$", w, word) for p, w in WORDS_OF_PROTOCOLS if re.fullmatch(p, word)), None)
        if told or not parts or parts[-1][-1:] == ",":
            parts.append((told or word) + ("," if told else ""))
        else:
            parts[-1] += f" {word}"
    return ", ".join(part.rstrip(",") for part in parts)


def silence(updated: object) -> str | None:
    """How long ago a status was written, where that is too long for a process that still runs."""
    try:
        then = datetime.datetime.fromisoformat(str(updated))
    except ValueError:
        return None
    seconds = (datetime.datetime.now(then.tzinfo) - then).total_seconds()
    return duration(seconds) if seconds > SILENT else None


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def breakable(text: str) -> Markup:
    """A name in camel case may end its line before a capital."""
    return Markup(re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", str(escape(text))))


def ordinal(number: int) -> str:
    """2nd, 3rd, 13th, 22nd."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else endings.get(number % 10, 'th')}"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return capital(text) + ("" if text.rstrip().endswith((".", "!", "?")) else ".")


def authors(names: str) -> str:
    """Up to four names; of more, the first and how many others. The BibTeX entry has them all."""
    people = [name for name in names.replace(" and ", ", ").split(", ") if name]
    return names if len(people) <= 4 else f"{people[0]} and {len(people) - 1} others"


SUPERSCRIPT = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


def number(value: float, uncertainty: float | None = None) -> str:
    """Rounded to what the uncertainty allows, else to four digits and without zeros at the end; very small ones as a power of ten."""
    if value and abs(value) < 1e-4:
        power = math.floor(math.log10(abs(value)))
        return f"{format_number(value / 10**power, 1)} \u00d7 10{str(power).translate(SUPERSCRIPT)}"
    if uncertainty and uncertainty > 1e-6:
        return format_number(value, max(0, decimals_for(uncertainty)))
    digits = 0 if not value else max(0, 3 - math.floor(math.log10(abs(value))))
    return as_printed(round(value, digits))


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


def as_good_as_equal(a: object, b: object) -> bool:
    """Numbers up to the rounding of a file; a switch is no number."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(as_good_as_equal(x, y) for x, y in zip(a, b, strict=True))
    if (
        isinstance(a, (int, float))
        and isinstance(b, (int, float))
        and isinstance(a, bool) == isinstance(b, bool)
    ):
        return math.isclose(a, b, rel_tol=1e-12)
    return a == b
