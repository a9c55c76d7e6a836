"""Pictures as inline SVG.

Horizontal positions are percentages and heights are pixels, so that a picture fills any width while its text keeps
its size. Colours come from classes in the style sheet, so that one picture serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from common.evaluation.statistics import format_number
from reports.words import short_count

PALETTE = 6  # series colours in the style sheet; more seeds than this share one colour


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


def svg_of(height: float, label: str, body: list[str], css: str) -> Markup:
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
        for y in range(top, bottom, step):  # beside the marks only: words and numbers stand between
            body.append(f'<line class="threshold" x1="{x}%" x2="{x}%" y1="{y + 19}" y2="{y + 41}"/>')
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
    return svg_of(bottom + 22, label, body, "picture")


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
    return svg_of(bottom + 22, label, body, "strips")


def _log_ticks(scale: Scale) -> list[tuple[float, str]]:
    powers = range(math.ceil(scale.low - 1e-9), math.floor(scale.high + 1e-9) + 1)
    if len(powers) >= 2:
        keep = [p for p in powers if len(powers) <= 8 or p % 2 == 0]
        return [(float(p), short_count(10.0**p) if p >= 0 else f"{10.0**p:g}") for p in keep]
    decade = math.floor(scale.low)
    found = [(math.log10(m * 10.0**e), m * 10.0**e) for e in (decade, decade + 1) for m in (1, 2, 5)]
    return [(t, f"{v:g}") for t, v in found if scale.low <= t <= scale.high]


def _ticks(scale: Scale, log: bool) -> list[tuple[float, str]]:
    if log:
        return _log_ticks(scale)
    values = ticks(scale.low, scale.high)
    return list(zip(values, tick_labels(values), strict=True))


def draw(
    figure: dict, curves: dict[str, list[tuple[float, float, float, float]]], height: int = 300
) -> Markup:
    """Medians as lines, lowest to highest as a band."""
    log_x, log_y = figure.get("log_x", False), figure.get("log_y", False)

    def to_x(value: float) -> float:
        return math.log10(value) if log_x else value

    def to_y(value: float) -> float:
        return math.log10(value) if log_y else value

    curves = {
        name: [point for point in curve if (point[0] > 0 or not log_x) and (min(point[1:]) > 0 or not log_y)]
        for name, curve in curves.items()
    }
    xs = [to_x(x) for curve in curves.values() for x, *_ in curve]
    ys = [to_y(y) for curve in curves.values() for _, *values in curve for y in values]
    if not xs:
        return Markup("")
    wide, tall = Scale.around(xs), Scale.around(ys)
    top, bottom = 8, height - 22

    def place(y: float) -> float:
        return round(bottom - (tall(y) - 2) / 96 * (bottom - top), 1)

    body = []
    for value, text in _ticks(tall, log_y):
        body.append(f'<line class="grid" x1="0" x2="100%" y1="{place(value)}" y2="{place(value)}"/>')
        body.append(f'<text class="tick" x="0" y="{place(value) - 3}">{text}</text>')
    for value, text in _ticks(wide, log_x):
        x = wide(value)
        anchor = "start" if x < 6 else "end" if x > 94 else "middle"
        body.append(f'<text class="tick" x="{x}%" y="{height - 6}" text-anchor="{anchor}">{text}</text>')
    body.append(
        f'<svg width="100%" height="{height}" viewBox="0 0 1000 {height}" preserveAspectRatio="none">'
    )
    for index, curve in enumerate(curves.values()):
        css = f"s{index % PALETTE + 1}"
        if any(low != high for _, _, low, high in curve):
            edge = [(x, high) for x, _, _, high in curve] + [(x, low) for x, _, low, _ in reversed(curve)]
            corners = " ".join(f"{wide(to_x(x)) * 10:.1f},{place(to_y(y)):g}" for x, y in edge)
            body.append(f'<polygon class="spread {css}" points="{corners}"/>')
        path = "L".join(f"{wide(to_x(x)) * 10:.1f} {place(to_y(y)):g}" for x, y, _, _ in curve)
        body.append(f'<path class="curve {css}" d="M{path}"/>')
    body.append("</svg>")
    label = f"{figure['title']}: {figure['y']} against {figure['x']}, " + ", ".join(curves)
    return svg_of(height, str(escape(label)), body, "still")
