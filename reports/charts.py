"""Pictures as inline SVG, and the numbers behind the interactive charts.

Horizontal positions are percentages and heights are pixels, so that a picture fills any width while its text keeps
its size. Colours come from classes in the style sheet, so that one picture serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape

from common.evaluation.statistics import DASH, format_number, seed_interval

MAX_POINTS = 500  # a curve; fewer where many seeds share the page
POINTS_A_CHART = 6000  # over all its seeds
PALETTE = 6  # series colours in the style sheet; more seeds than this share one colour


def thin_indices(ys: Sequence[float | None], limit: int = MAX_POINTS) -> list[int]:
    """Which of a curve's points to keep, at most `limit`: the lowest and highest of each equal bucket stay, so no peak
    or dip is lost; so do both ends and gaps.
    """
    if len(ys) <= limit:
        return list(range(len(ys)))
    if limit < 4:
        raise ValueError(f"limit is {limit}; a curve needs at least 4 points")
    buckets = (limit - 2) // 2
    inner = len(ys) - 2
    keep = {0, len(ys) - 1}
    for b in range(buckets):
        indices = range(1 + b * inner // buckets, 1 + (b + 1) * inner // buckets)
        known = [i for i in indices if ys[i] is not None]
        if known:
            keep |= {min(known, key=lambda i: ys[i]), max(known, key=lambda i: ys[i])}
        elif indices:
            keep.add(indices[0])
    return sorted(keep)


def thin(xs: Sequence[float], ys: Sequence[float | None], limit: int = MAX_POINTS) -> tuple[list, list]:
    """The points that `thin_indices` keeps."""
    keep = thin_indices(ys, limit)
    return [xs[i] for i in keep], [ys[i] for i in keep]


def significant(value: float | None, digits: int = 5) -> float | int | None:
    """Rounded for the page: what a chart can show, in few characters."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def short_count(value: float | None) -> str:
    """2000000 is `2 M`, 38400 is `38.4 k`."""
    if value is None:
        return DASH
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return format_number(value / size, 2).rstrip("0").rstrip(".") + unit
    return format_number(value, 0)


def ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Round numbers (1, 2, 5 x 10^k) inside [low, high]."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / target
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """All with the same number of decimals, as many as their step needs."""
    if max(abs(v) for v in values) >= 10_000:
        return [short_count(v) for v in values]
    step = min((b - a for a, b in pairwise(values)), default=abs(values[0]) or 1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [format_number(v, decimals) for v in values]


@dataclass(frozen=True)
class Scale:
    """Maps values to [edge, 100 - edge] per cent of the width."""

    low: float
    high: float
    edge: float = 2.0

    @classmethod
    def around(cls, values: Sequence[float]) -> Scale:
        finite = [v for v in values if v is not None and math.isfinite(v)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        if high - low < 1e-9 * max(1.0, abs(high)):
            margin = max(1.0, abs(high) * 0.05)
            return cls(low - margin, high + margin)
        margin = 0.03 * (high - low)
        return cls(low - margin, high + margin)

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.edge + share * (100 - 2 * self.edge), 3)


@dataclass(frozen=True)
class PictureRow:
    """One line of the verdict's picture. `band`: a spread (sd); `interval`: a 95 % interval; `points`: one dot each."""

    label: str
    value: str
    mark: float | None
    css: str
    band: tuple[float, float] | None = None
    interval: tuple[float, float] | None = None
    points: tuple[float, ...] = ()


def _svg(height: float, label: str, body: list[str], css: str) -> Markup:
    return Markup(
        f'<svg class="{css}" width="100%" height="{height:g}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )


def _axis(scale: Scale, top: float, bottom: float) -> list[str]:
    """Vertical gridlines and their numbers; the outermost numbers are anchored so that they stay inside."""
    body = []
    values = ticks(scale.low, scale.high)
    for value, text in zip(values, tick_labels(values), strict=True):
        x = scale(value)
        anchor = "start" if x < 6 else "end" if x > 94 else "middle"
        body.append(f'<line class="grid" x1="{x}%" x2="{x}%" y1="{top:g}" y2="{bottom:g}"/>')
        body.append(f'<text class="tick" x="{x}%" y="{bottom + 14:g}" text-anchor="{anchor}">{text}</text>')
    return body


def picture(rows: Sequence[PictureRow], line: tuple[str, float] | None, label: str) -> Markup:
    """Every score of the verdict on one axis; `line` is the dashed threshold with its name."""
    values = [v for row in rows for v in (row.mark, *row.points, *(row.band or ())) if v is not None]
    values += [line[1]] if line else []
    span = max(values) - min(values) or 1.0
    # An interval from two seeds can be many times wider than everything else: it is cut at the picture's edge, its
    # numbers stand in words.
    for row in rows:
        if row.interval and all(math.isfinite(v) for v in row.interval):
            values += [max(row.interval[0], min(values) - span), min(row.interval[1], max(values) + span)]
    scale = Scale.around(values)
    step, top = 44, 22 if line else 6
    bottom = top + step * len(rows)
    body = _axis(scale, top, bottom)
    if line:
        x = scale(line[1])
        anchor = "start" if x < 20 else "end" if x > 80 else "middle"
        body.append(
            f'<text class="threshold-label" x="{x}%" y="12" text-anchor="{anchor}">{escape(line[0])}</text>'
        )
        body.append(f'<line class="threshold" x1="{x}%" x2="{x}%" y1="{top - 4}" y2="{bottom}"/>')
    for index, row in enumerate(rows):
        y = top + step * index
        mid = y + 30
        body.append(f'<g class="{row.css}">')
        body.append(f'<text class="row-label" x="0" y="{y + 15}">{escape(row.label)}</text>')
        body.append(
            f'<text class="row-value" x="100%" y="{y + 15}" text-anchor="end">{escape(row.value)}</text>'
        )
        body.append(f'<line class="track" x1="0" x2="100%" y1="{mid}" y2="{mid}"/>')
        if row.band:
            x1, x2 = scale(row.band[0]), scale(row.band[1])
            body.append(
                f'<rect class="band" x="{x1}%" y="{mid - 6}" width="{max(x2 - x1, 0.1):g}%" height="12" rx="2"/>'
            )
        if row.interval:
            x1, x2 = scale(row.interval[0]), scale(row.interval[1])
            body.append(f'<line class="interval" x1="{x1}%" x2="{x2}%" y1="{mid}" y2="{mid}"/>')
        body += [f'<circle class="dot" cx="{scale(p)}%" cy="{mid}" r="3.5"/>' for p in row.points]
        if row.mark is not None:
            x = scale(row.mark)
            body.append(f'<line class="mark" x1="{x}%" x2="{x}%" y1="{mid - 9}" y2="{mid + 9}"/>')
        body.append("</g>")
    return _svg(bottom + 22, label, body, "picture")


def _stacked(scores: Sequence[float], scale: Scale, height: float) -> str:
    """Dots as one path of zero-length strokes: equal scores pile up around the middle instead of hiding each other."""
    bins: dict[int, int] = {}
    for score in scores:
        column = round(scale(score) * 1.6)
        bins[column] = bins.get(column, 0) + 1
    gap = min(4.5, (height - 6) / max(bins.values(), default=1))
    seen: dict[int, int] = {}
    path = []
    for score in sorted(scores):
        x = scale(score)
        column = round(x * 1.6)
        place = seen.get(column, 0)
        seen[column] = place + 1
        offset = (place - (bins[column] - 1) / 2) * gap
        path.append(f"M{x * 10:.0f} {height / 2 + offset:.1f}h0")
    return "".join(path)


def strips(
    rows: Sequence[tuple[str, str, Sequence[float]]], lines: Sequence[tuple[str, float, str]], label: str
) -> Markup:
    """Every episode as a dot.

    `rows`: (name, css class, scores); `lines`: (name, value, css class) drawn through all rows.
    """
    scale = Scale.around([s for _, _, scores in rows for s in scores] + [value for _, value, _ in lines])
    height = 40 if len(rows) <= 12 else 26
    top = 6
    bottom = top + (height + 16) * len(rows)
    body = _axis(scale, top, bottom)
    for name, value, css in lines:
        x = scale(value)
        body.append(
            f'<line class="{css}" x1="{x}%" x2="{x}%" y1="{top}" y2="{bottom}"><title>{escape(name)}</title></line>'
        )
    for index, (name, css, scores) in enumerate(rows):
        y = top + (height + 16) * index
        mean = sum(scores) / len(scores)
        body.append(f'<g class="{css}"><text class="row-label" x="0" y="{y + 11}">{escape(name)}</text>')
        body.append(
            f'<svg x="0" y="{y + 14}" width="100%" height="{height}" viewBox="0 0 1000 {height}"'
            ' preserveAspectRatio="none">'
        )
        body.append(f'<path class="dots" d="{_stacked(scores, scale, height)}"/></svg>')
        x = scale(mean)
        body.append(f'<line class="mark" x1="{x}%" x2="{x}%" y1="{y + 16}" y2="{y + 12 + height}"/></g>')
    return _svg(bottom + 22, label, body, "strips")


@dataclass(frozen=True)
class Series:
    """`hours` goes with `xs` (frames), empty where no clock was kept; `low` and `high` are a band around `ys`."""

    name: str
    xs: list
    ys: list
    css: str  # s1 ... s6, mean, many, reference
    hours: list = field(default_factory=list)
    low: list = field(default_factory=list)
    high: list = field(default_factory=list)
    band: str = ""  # what the band is

    def data(self) -> dict:
        columns = {"x": self.xs, "h": self.hours, "y": self.ys, "lo": self.low, "hi": self.high}
        digits = {"x": 7, "h": 5}
        shown = {
            k: [significant(v, digits.get(k, 5)) for v in column] for k, column in columns.items() if column
        }
        return {"name": self.name, "css": self.css} | ({"band": self.band} if self.band else {}) | shown

    def values(self) -> list[float]:
        return [y for column in (self.ys, self.low, self.high) for y in column if y is not None]


@dataclass(frozen=True)
class Line:
    """A horizontal reference line."""

    name: str
    value: float
    css: str


@dataclass(frozen=True)
class Chart:
    id: str
    title: str
    series: list[Series]
    lines: list[Line]
    caption: str = ""
    small: bool = False

    def data(self) -> dict:
        """What the interactive chart draws: one pair of lists a series, rounded."""
        return {
            "id": self.id,
            "title": self.title,
            "small": self.small,
            "series": [s.data() for s in self.series],
            "lines": [
                {"name": line.name, "css": line.css, "value": significant(line.value)} for line in self.lines
            ],
        }

    def svg(self) -> Markup:
        """The same as a still picture: without scripts and on paper."""
        xs = [x for s in self.series for x in s.xs]
        ys = [y for s in self.series for y in s.values()] + [line.value for line in self.lines]
        if not xs or not ys:
            return Markup("")
        height = 130 if self.small else 260
        wide, tall = Scale.around([*xs, 0]), Scale.around(ys)
        top, bottom = 8, height - 22

        def place(y: float) -> float:
            return round(bottom - (tall(y) - 2) / 96 * (bottom - top), 1)

        body = []
        values = ticks(tall.low, tall.high, 3 if self.small else 5)
        for value, text in zip(values, tick_labels(values), strict=True):
            y = place(value)
            body.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
            body.append(f'<text class="tick" x="0" y="{y - 3}">{text}</text>')
        for value in ticks(max(0, wide.low), wide.high, 3 if self.small else 5):
            x = wide(value)
            anchor = "start" if x < 6 else "end" if x > 94 else "middle"
            body.append(
                f'<text class="tick" x="{x}%" y="{height - 6}" text-anchor="{anchor}">{short_count(value)}</text>'
            )
        for line in self.lines:
            y = place(line.value)
            body.append(f'<line class="ref {line.css}" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
            if not self.small:
                body.append(
                    f'<text class="ref-label" x="100%" y="{y - 4}" text-anchor="end">{escape(line.name)}</text>'
                )
        body.append(
            f'<svg width="100%" height="{height}" viewBox="0 0 1000 {height}" preserveAspectRatio="none">'
        )
        for s in self.series:
            if s.low and s.high:
                edge = [
                    (x, lo, hi) for x, lo, hi in zip(s.xs, s.low, s.high, strict=True) if None not in (lo, hi)
                ]
                corners = [(x, hi) for x, _, hi in edge] + [(x, lo) for x, lo, _ in reversed(edge)]
                points = " ".join(f"{wide(x) * 10:.0f},{place(y):g}" for x, y in corners)
                body.append(f'<polygon class="spread {s.css}" points="{points}"/>')
            path, pen = [], False
            for x, y in zip(s.xs, s.ys, strict=True):
                if y is None:
                    pen = False
                    continue
                path.append(f"{'L' if pen else 'M'}{wide(x) * 10:.0f} {place(y):g}" + ("" if pen else "h0"))
                pen = True
            body.append(f'<path class="curve {s.css}" d="{"".join(path)}"/>')
        body.append("</svg>")
        return _svg(height, f"{self.title}, one line a seed, against frames", body, "still")


def series_of(
    curves: Sequence[tuple],
    averaged: Sequence[bool] | None = None,
    small: bool = False,
    crowd: int = 1,
) -> list[Series]:
    """Series in the page's colours, thinned; and the mean of those `averaged` (all, unless given) wherever they share
    an x, from three seeds on with its 95 % interval.

    `curves`: (name, xs, ys) or (name, xs, ys, hours). The mean is taken before thinning. Fewer than two curves have none.
    `crowd`: by how much to thin further, where many curves share a page.
    """
    share = 3 if small else 1
    limit = max(60 // crowd, 8, min(MAX_POINTS, POINTS_A_CHART // crowd // max(1, len(curves))) // share)
    many = len(curves) > PALETTE
    out = []
    for index, (name, xs, ys, *clock) in enumerate(curves):
        keep = thin_indices(ys, limit)
        hours = [clock[0][i] for i in keep] if clock and clock[0] else []
        css = "many" if many else f"s{index % PALETTE + 1}"
        out.append(Series(name, [xs[i] for i in keep], [ys[i] for i in keep], css, hours))
    chosen = curves if averaged is None else [c for c, use in zip(curves, averaged, strict=True) if use]
    mean = _mean_of(chosen, limit)
    return [*out, mean] if mean else out


def _at_shared_places(curves: Sequence[tuple]) -> list[tuple]:
    """The curves at the places of the one with the fewest points, as far as all of them reach; linear between the points of
    each. Empty where one has a gap.
    """
    if any(y is None for c in curves for y in c[2]) or not all(c[1] for c in curves):
        return []
    low, high = max(c[1][0] for c in curves), min(c[1][-1] for c in curves)
    fewest = min(curves, key=lambda c: len(c[1]))[1]
    places = sorted({low, high, *(x for x in fewest if low <= x <= high)}) if low < high else []

    def between(xs: Sequence[float], column: Sequence[float]) -> list[float]:
        return np.interp(places, xs, column).tolist()

    found = []
    for name, xs, ys, *clock in curves:
        timed = [between(xs, clock[0])] if clock and clock[0] and None not in clock[0] else []
        found.append((name, places, between(xs, ys), *timed))
    return found


def _mean_of(curves: Sequence[tuple], limit: int) -> Series | None:
    if len(curves) < 2:
        return None
    grids, how = [dict(zip(c[1], c[2], strict=True)) for c in curves], ""

    def common() -> list:
        return sorted(
            x for x in set(grids[0]).intersection(*grids[1:]) if all(g[x] is not None for g in grids)
        )

    shared = common()
    if len(shared) < 2:  # seeds that were measured each at places of their own
        curves, how = _at_shared_places(curves), ", linear between their points"
        grids = [dict(zip(c[1], c[2], strict=True)) for c in curves]
        shared = common() if grids else []
        if len(shared) < 2:
            return None
    keep = thin_indices([sum(g[x] for g in grids) / len(grids) for x in shared], limit)
    estimates = {i: seed_interval([g[shared[i]] for g in grids]) for i in keep}
    clocks = [dict(zip(c[1], c[3], strict=True)) for c in curves if len(c) > 3 and c[3]]
    timed = len(clocks) == len(grids) and all(clock.get(x) is not None for clock in clocks for x in shared)
    band = len(grids) > 2
    return Series(
        f"mean of {len(grids)} seeds{how}",
        [shared[i] for i in keep],
        [estimates[i].mean for i in keep],
        "mean",
        [sum(clock[shared[i]] for clock in clocks) / len(clocks) for i in keep] if timed else [],
        [estimates[i].low for i in keep] if band else [],
        [estimates[i].high for i in keep] if band else [],
        "95 % interval" if band else "",
    )
