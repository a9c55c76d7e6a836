"""The figures as one SVG file that shows itself in light and dark, drawn from results.json alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks import figures

WIDTH, LEFT, RIGHT = 880, 250, 110  # pixels; LEFT holds names, RIGHT holds values
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 15px } .small { font-size: 12px; fill: #57606a }
.page { fill: #ffffff } .grid { stroke: #d8dee4; stroke-width: 1 } .spread { stroke-width: 2 }
.s0 { stroke: #57606a; fill: #57606a } .s1 { stroke: #0b62c4; fill: #0b62c4 } .s2 { stroke: #b4490f; fill: #b4490f }
.s3 { stroke: #7a3eb8; fill: #7a3eb8 }
path { stroke-width: 2; fill: none !important } .arithmetic { stroke-dasharray: 5 4 }
text.s0, text.s1, text.s2, text.s3 { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9da7b3 } .page { fill: #0d1117 } .grid { stroke: #30363d }
  .s0 { stroke: #9da7b3; fill: #9da7b3 } .s1 { stroke: #58a6ff; fill: #58a6ff } .s2 { stroke: #f0883e; fill: #f0883e }
  .s3 { stroke: #bc8cff; fill: #bc8cff }
}
"""
RATES = {
    "emulator_steps_per_second": "emulator alone, 84x84",
    "env_ale_steps_per_second": 'environments, "ale"',
    "emulator_rgb_steps_per_second": "emulator alone, RGB",
    "env_nature_steps_per_second": 'environments, "nature"',
    "dqn_evaluation_steps_per_second": "DQN, evaluation",
    "dqn_steps_per_second": "DQN, learning",
    "sb3_dqn_steps_per_second": "Stable-Baselines3 DQN, learning",
}
SERIES = {  # kind: name, colour
    "emulator": ("emulator alone, 84x84", "s0"),
    "env_ale": ('environments, "ale"', "s1"),
    "env_nature": ('environments, "nature"', "s3"),
}
COLOURS = {
    "emulator": "s0",
    "Stable": "s2",
    'environments, "nature"': "s3",
}  # by a name's beginning; all else is s1
Point = tuple[float, float, float, float]  # x, median, smallest, largest


def short(value: float) -> str:
    """12345 is 12 k, 0.1234 is 0.12."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g} k"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _text(x: float, y: float, content: str, anchor: str = "start", style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(content)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def rates(flat: Mapping[str, Any], top: float) -> tuple[list[str], float]:
    """Agent steps/s of everything that makes steps, on a logarithmic axis; returns the marks and their height."""
    rows = [(name, flat[key]) for key, name in RATES.items() if flat.get(key)]
    if not rows:
        return [], 0
    low = math.floor(math.log10(min(value["spread"][0] for _, value in rows)))
    high = math.ceil(math.log10(max(value["spread"][1] for _, value in rows)))
    right = WIDTH - RIGHT

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) / max(high - low, 1) * (right - LEFT)

    bottom = top + 40 + 24 * len(rows)
    marks = [_text(16, top + 18, "Agent steps per second, one environment (Pong)", style="title")]
    for power in range(low, high + 1):
        marks.append(_line(x(10**power), top + 34, x(10**power), bottom, "grid"))
        marks.append(_text(x(10**power), bottom + 16, f"{10**power:,}", "middle", "small"))
    for k, (name, value) in enumerate(rows):
        y = top + 50 + 24 * k
        style = next((s for start, s in COLOURS.items() if name.startswith(start)), "s1")
        small, large = value["spread"]
        marks.append(_text(LEFT - 12, y + 4, name, "end"))
        marks.append(_line(x(small), y, x(large), y, f"spread {style}"))
        marks.append(f'<circle cx="{x(value["median"]):.1f}" cy="{y}" r="5" class="{style}"/>')
        marks.append(_text(right + 12, y + 4, short(value["median"])))
    return marks, bottom + 40 - top


def _ticks(largest: float) -> list[float]:
    """0 to at least `largest` in 3 to 6 round steps."""
    raw = largest / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [step * k for k in range(math.ceil(largest / step - 1e-9) + 1)]


def lines(
    title: str, x_name: str, series: Sequence[tuple[str, str, list[Point]]], top: float, log_x: bool
) -> tuple[list[str], float]:
    """Curves over a common axis; each is (name, classes, points). Names stand at the right ends, moved apart."""
    series = [s for s in series if s[2]]
    if not series:
        return [], 0
    height, left, right = 220, 70, WIDTH - 220
    xs = sorted({p[0] for _, _, points in series for p in points})
    first, last = xs[0] if log_x else 0, xs[-1]
    ticks = _ticks(max(p[3] for _, _, points in series for p in points))

    def x(value: float) -> float:
        if not log_x:
            return left + value / last * (right - left)
        return left + (math.log2(value / first) / math.log2(last / first) if last > first else 0.5) * (
            right - left
        )

    def y(value: float) -> float:
        return top + 40 + height * (1 - value / ticks[-1])

    marks = [_text(16, top + 18, title, style="title")]
    for tick in ticks:
        marks += [
            _line(left, y(tick), right, y(tick), "grid"),
            _text(left - 8, y(tick) + 4, short(tick), "end", "small"),
        ]
    for value in xs if log_x else [t for t in _ticks(last) if t <= last]:
        marks.append(_text(x(value), y(0) + 18, short(value) if value else "0", "middle", "small"))
    marks.append(_text((left + right) / 2, y(0) + 36, x_name, "middle", "small"))
    ends = sorted(range(len(series)), key=lambda k: series[k][2][-1][1], reverse=True)
    label = -math.inf
    for k in ends:
        name, style, points = series[k]
        path = " L".join(f"{x(p[0]):.1f} {y(p[1]):.1f}" for p in points)
        marks.append(f'<path d="M{path}" class="{style}"/>')
        if "arithmetic" not in style:
            for p in points:
                marks.append(_line(x(p[0]), y(p[2]), x(p[0]), y(p[3]), f"spread {style}"))
                marks.append(f'<circle cx="{x(p[0]):.1f}" cy="{y(p[1]):.1f}" r="3.5" class="{style}"/>')
        label = max(y(points[-1][1]) + 4, label + 18)
        marks.append(_text(right + 12, label, name, style=style.split()[0]))
    return marks, height + 110


def draw(flat: Mapping[str, Any]) -> str:
    """results.json as SVG text."""
    body, top = [], 10.0
    scaling = [
        (
            name,
            colour,
            [(n, v["median"], *v["spread"]) for n, v in figures.by_size(flat, figures.SCALING, kind=kind)],
        )
        for kind, (name, colour) in SERIES.items()
    ]
    resident = [(n / 1e6, v["median"], *v["spread"]) for n, v in figures.by_size(flat, figures.RESIDENT)]
    stored = [("this repository", "s1", resident)]
    if resident and flat.get("sb3_replay_gb_per_million"):
        whole = flat["sb3_replay_gb_per_million"]["median"] * resident[-1][0]
        stored.append(
            (
                "Stable-Baselines3's arrays",
                "s2 arithmetic",
                [(0, 0, 0, 0), (resident[-1][0], whole, whole, whole)],
            )
        )
    panels = (
        lambda y: rates(flat, y),
        lambda y: lines(
            "Agent steps per second, all environments together",
            "number of environments",
            scaling,
            y,
            log_x=True,
        ),
        lambda y: lines(
            "Resident memory in GB", "million slots written, slack included", stored, y, log_x=False
        ),
    )
    for panel in panels:
        marks, height = panel(top)
        body += marks
        top += height
    about = f"{flat['machine']['cpu']}, {flat['machine']['cores']} cores; {flat['date'][:10]}; {flat['mode']}"
    body.append(_text(16, top + 8, f"Medians with smallest and largest. {about}.", style="small"))
    height = top + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img">'
        f"<title>Benchmark results</title><style>{STYLE}</style>"
        f'<rect class="page" width="{WIDTH}" height="{height:.0f}"/>{"".join(body)}</svg>\n'
    )
