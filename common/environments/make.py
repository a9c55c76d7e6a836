"""The environments of a task, as a script's `Config` asks for them."""

from __future__ import annotations

from typing import Any

from common.environments.atari import AtariEnvs
from common.environments.vector import GymEnvs, ReplayableEnvs


def make_envs(config: Any, task: Any, num_envs: int, seed: int, **options: Any) -> ReplayableEnvs:
    """`num_envs` environments that step together.

    config: a script's, of whose fields `frame_skip`, `noop_max` and `preprocessing` are read for Atari games. task: one of
    paper.yaml. options: further arguments of `AtariEnvs`, which win; a Gymnasium task takes none.
    """
    if task.kind == "gym":
        return GymEnvs(task.env_id, num_envs, seed)
    own = {name: getattr(config, name) for name in ("frame_skip", "noop_max", "preprocessing")}
    return AtariEnvs(task.game, num_envs, seed=seed, **(own | options))
