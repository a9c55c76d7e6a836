"""Somebody else's learning curve as an orientation for runs that are shorter than the paper's.

A paper's folder may hold `reference_curves.csv`: rows of another implementation at a few lengths, `metric` being
NAME_5Mframes. It was measured by a protocol of its own, so it is drawn, named as what it is, and never compared with.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.errors import UserError
from common.evaluation.statistics import format_number
from reports.curves import Series

FILE = "reference_curves.csv"
METRIC = re.compile(r"([a-z0-9_]+)_([0-9]+)Mframes")
# protocol -> (the curve's short name, what it is)
PROTOCOLS = {
    "train_return_sticky0.25_5seeds": (
        "Dopamine's {metric}, another protocol",
        "Dopamine's published {metric} baseline (github.com/google/dopamine): mean and standard deviation over 5 runs "
        "of the score during training, with sticky actions and another exploration than the paper's. It is an "
        "orientation for short runs; the verdict does not use it",
    ),
}


@dataclass(frozen=True)
class Reference:
    """`points`: (frames, mean, standard deviation or None), by frames."""

    name: str
    description: str
    points: tuple[tuple[int, float, float | None], ...]

    def up_to(self, frames: float) -> list[tuple[int, float, float | None]]:
        """The points inside a run's length and the next one; none for a run too short to compare at all."""
        inside = [p for p in self.points if p[0] <= frames]
        after = self.points[len(inside) : len(inside) + 1]
        return [*inside, *after] if inside or (after and frames >= after[0][0] / 2) else []

    def series(self, frames: float) -> Series | None:
        points = self.up_to(frames)
        if not points:
            return None
        spread = all(sd is not None for _, _, sd in points)
        return Series(
            self.name,
            [f for f, _, _ in points],
            [mean for _, mean, _ in points],
            "reference",
            low=[m - sd for _, m, sd in points] if spread else [],
            high=[m + sd for _, m, sd in points] if spread else [],
            band="± sd" if spread else "",
        )

    def at(self, frames: float) -> tuple[float, float | None] | None:
        """Mean and standard deviation at a length, linear between the points; None outside them."""
        for (f0, m0, s0), (f1, m1, s1) in zip(self.points, self.points[1:], strict=False):
            if f0 <= frames <= f1:
                t = (frames - f0) / (f1 - f0)
                return m0 + t * (m1 - m0), None if s0 is None or s1 is None else s0 + t * (s1 - s0)
        return None

    def course(self, frames: float, score: float) -> str:
        """Where a training score stands beside the reference at the same length, in words."""
        here = self.at(frames)
        if here is None:
            first = self.points[0][0]
            where = f"starts at {first / 1e6:g} million frames" if frames < first else "ends before"
            return f"no reference at this length (it {where})"
        mean, sd = here
        beside = f"{format_number(mean, 1)}" + (f" ± {format_number(sd, 1)}" if sd is not None else "")
        margin = sd or 0.0
        word = "above" if score > mean + margin else "below" if score < mean - margin else "on"
        return f"{word} the reference course: {format_number(score, 1)} beside {beside} (another protocol)"


@cache
def _rows(path: Path, stamp: int) -> tuple[dict[str, str], ...]:
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def reference_of(folder: Path, game: str | None) -> Reference | None:
    """The reference of a game from the paper's folder; None where there is none. UserError for a damaged table."""
    path = folder / FILE
    if game is None or not path.is_file():
        return None
    points, protocol, label = [], "", ""
    for line, row in enumerate(_rows(path, path.stat().st_mtime_ns), start=2):
        try:
            if row["game"] != game:
                continue
            label, millions = METRIC.fullmatch(row["metric"]).groups()
            points.append(
                (
                    int(millions) * 1_000_000,
                    float(row["value"]),
                    float(row["stdev"]) if row["stdev"] else None,
                )
            )
            protocol = row["protocol"]
        except (KeyError, AttributeError, TypeError, ValueError):
            raise UserError(
                f"{path}, line {line}: not a row of game, metric as dqn_5Mframes, value, stdev, protocol; "
                f"restore it: git checkout -- {path}"
            ) from None
    if not points:
        return None
    name, what = PROTOCOLS.get(
        protocol, ("{metric}, another protocol", "Another implementation's {metric} ({protocol})")
    )
    names = {
        "metric": label.replace("_", " ").upper() if len(label) < 5 else label.replace("_", " "),
        "protocol": protocol,
    }
    return Reference(name.format(**names), what.format(**names), tuple(sorted(points)))
