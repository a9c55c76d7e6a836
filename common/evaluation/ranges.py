"""The lowest and the highest score that an episode of some tasks can have; of all others nothing is assumed."""

from __future__ import annotations

import math
from typing import Any

ANYTHING = (-math.inf, math.inf)
# By ROM or Gymnasium id. Pong ends at 21 points and Boxing at 100 (Atari's manuals); the others pay 1 a step and end at their
# time limit (gymnasium's registry)
RANGES = {
    "pong": (-21.0, 21.0),
    "boxing": (-100.0, 100.0),
    "CartPole-v1": (0.0, 500.0),
    "InvertedPendulum-v4": (0.0, 1000.0),
    "InvertedPendulum-v5": (0.0, 1000.0),
}


def score_range(task: Any) -> tuple[float, float]:
    return RANGES.get(task.game or task.env_id or "", ANYTHING)
