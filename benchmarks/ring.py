"""A replay memory that is full, without a game having been played."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

EPISODE = 1000  # agent steps of a synthetic episode
CHUNK = 4096  # slots filled at once


def fill(replay: Any) -> None:
    """Writes every slot of the ring once: random frames, games of a thousand agent steps."""
    rng = np.random.default_rng(0)
    pool = rng.integers(256, size=(CHUNK, *replay.frames.shape[2:]), dtype=np.uint8).astype(
        replay.frames.dtype
    )
    checksums = [zlib.crc32(frame) for frame in pool]
    for env in range(replay.num_envs):
        for first in range(0, replay.slots, CHUNK):
            slots = np.arange(first, min(first + CHUNK, replay.slots))
            place = slots % EPISODE
            replay.frames[env, slots[0] : slots[-1] + 1] = pool[: len(slots)]
            replay.actions[env, slots] = slots % 2
            replay.rewards[env, slots] = slots % 3 - 1
            replay.age[env, slots] = np.minimum(place, 255)
            replay.terminals[env, slots] = place == EPISODE - 2
            replay.complete[env, slots] = place < EPISODE - 1  # an episode's last screen has no transition
            if replay.checksums is not None:
                replay.checksums[env, slots] = checksums[: len(slots)]
        replay.complete[env, -1] = False
        replay.written[env] = replay.slots
