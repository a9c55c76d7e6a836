"""Learning curves: thinned, averaged over seeds, as numbers for the interactive charts and as still pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from markupsafe import Markup, escape

from common.evaluation.statistics import as_printed, seed_intervals
from reports.charts import PALETTE, Scale, svg_of, tick_labels, ticks

MAX_POINTS = 500  # a curve; fewer where many seeds share the page
POINTS_A_CHART = 6000  # over all its seeds


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


@dataclass(frozen=True)
class Series:
    """`hours` goes with `xs` (frames), empty where no clock was kept; `low` and `high` are a band around `ys`."""

    name: str
    xs: list
    ys: list
    css: str  # s1 ... s6, mean, many, faint, reference
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
    beside: Sequence[Series] = ()  # of the charts beside it, for axes that are the same

    @property
    def within_axes(self) -> list[Series]:
        return [*self.series, *self.beside]

    @cached_property  # a page measures its charts before it holds them
    def data(self) -> dict:
        """What the interactive chart draws: one pair of lists a series, rounded."""
        return {
            "id": self.id,
            "title": self.title,
            "small": self.small,
            "series": [s.data() for s in self.series],
            "lines": [
                {
                    "name": line.name,
                    "css": line.css,
                    "value": significant(line.value),
                    "outside": self.outside(line),
                }
                for line in self.lines
            ],
        }

    def outside(self, line: Line) -> bool:
        """Whether the line lies so far from the curves that they would be flat beside it: then it is marked at the edge."""
        ys = [y for s in self.within_axes for y in s.values()]
        if not ys:
            return False
        low, high = min(ys), max(ys)
        room = max(high - low, 1e-9 * max(abs(low), abs(high)), 1e-12)
        return not low - room <= line.value <= high + room

    @cached_property
    def svg(self) -> Markup:
        """The same as a still picture: without scripts and on paper."""
        xs = [x for s in self.within_axes for x in s.xs]
        ys = [y for s in self.within_axes for y in s.values()]
        if not xs or not (ys or self.lines):
            return Markup("")
        ys += [line.value for line in self.lines if not ys or not self.outside(line)]
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
        across = ticks(max(0, wide.low), wide.high, 3 if self.small else 5)
        for value, text in zip(across, tick_labels(across), strict=True):
            x = wide(value)
            anchor = "start" if x < 6 else "end" if x > 94 else "middle"
            body.append(f'<text class="tick" x="{x}%" y="{height - 6}" text-anchor="{anchor}">{text}</text>')
        for line in self.lines:
            if self.outside(line):
                up = line.value > max(y for s in self.series for y in s.values())
                # at the end where a rising curve is not
                x, anchor, y, sign = (
                    ("10%", "start", top + 10, "\u2191") if up else ("100%", "end", bottom - 4, "\u2193")
                )
                words = f"{sign} {line.name}, {as_printed(line.value)}"
                body.append(
                    f'<text class="ref-label" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
                )
                continue
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
        names = ", ".join(s.name for s in self.series[:12])
        return svg_of(height, f"{self.title}, a line each: {names}", body, "still")


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
    mean = mean_of(chosen, limit)
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


def mean_of(curves: Sequence[tuple], limit: int) -> Series | None:
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
    means, lows, highs = seed_intervals([[g[shared[i]] for i in keep] for g in grids])
    clocks = [dict(zip(c[1], c[3], strict=True)) for c in curves if len(c) > 3 and c[3]]
    timed = len(clocks) == len(grids) and all(clock.get(x) is not None for clock in clocks for x in shared)
    band = len(grids) > 2
    return Series(
        f"mean of {len(grids)} seeds{how}",
        [shared[i] for i in keep],
        means.tolist(),
        "mean",
        [sum(clock[shared[i]] for clock in clocks) / len(clocks) for i in keep] if timed else [],
        lows.tolist() if band else [],
        highs.tolist() if band else [],
        "95 % interval" if band else "",
    )


def within(series: Series, bounds: tuple[float, float]) -> Series:
    """With no band beyond the lowest and the highest score that can be."""
    low = [None if y is None else max(y, bounds[0]) for y in series.low]
    return replace(series, low=low, high=[None if y is None else min(y, bounds[1]) for y in series.high])
