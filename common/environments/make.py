"""The environments of a task, as a script's `Config` asks for them."""

from __future__ import annotations

from typing import Any

from common.environments.atari import AtariEnvs
from common.environments.vector import GymEnvs, ReplayableEnvs

ATARI = (
    "frame_skip",
    "noop_max",
    "preprocessing",
    "fire_reset",
    "repeat_first_frame",
    "max_frames",
    "time_limit",
)
GYM = ("clip_actions", "most_steps")


def make_envs(config: Any, task: Any, num_envs: int, seed: int, **options: Any) -> ReplayableEnvs:
    """`num_envs` environments that step together.

    config: a script's; those of its fields that are named above are arguments of `AtariEnvs` and `GymEnvs`. task: one of
    paper.yaml. options: further arguments of `AtariEnvs`, which win; a Gymnasium task takes none.
    """
    names = GYM if task.kind == "gym" else ATARI
    own = {name: getattr(config, name) for name in names if hasattr(config, name)}
    if task.kind == "gym":
        return GymEnvs(task.env_id, num_envs, seed, **own)
    return AtariEnvs(task.game, num_envs, seed=seed, **(own | options))
