"""The emulator alone, and the environment layer of this repository on top of it. Runs in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from benchmarks.process import serve
from common.environments.atari import NO_CAP, SCREEN, SIZE, AtariEnvs

GAME, NOOP_MAX, FRAME_SKIP = "pong", 30, 4
TURNS = 10
KINDS = ("emulator", "emulator_rgb", "env_ale", "env_nature")


def bare(num_envs: int, rgb: bool) -> AtariVectorEnv:
    """What `AtariEnvs` makes inside, with nothing around it: 84x84 gray, or the RGB screen."""
    rows, columns = SCREEN if rgb else (SIZE, SIZE)
    return AtariVectorEnv(
        GAME,
        num_envs=num_envs,
        num_threads=0,
        max_num_frames_per_episode=NO_CAP,
        repeat_action_probability=0.0,
        full_action_space=False,
        img_height=rows,
        img_width=columns,
        grayscale=not rgb,
        stack_num=1,
        frameskip=FRAME_SKIP,
        maxpool=True,
        noop_max=NOOP_MAX + 1,
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
    )


def layer(num_envs: int, preprocessing: str) -> AtariEnvs:
    return AtariEnvs(
        GAME,
        num_envs,
        seed=1,
        frame_skip=FRAME_SKIP,
        noop_max=NOOP_MAX,
        preprocessing=preprocessing,
        threads=0,
    )


def subject(kind: str, num_envs: int) -> Callable[[int], float]:
    """A function that makes so many calls of `step` with random actions drawn beforehand, and returns the seconds."""
    rng = np.random.default_rng(1)
    if kind.startswith("emulator"):
        envs = bare(num_envs, rgb=kind.endswith("rgb"))
        envs.reset(seed=1)
        number = int(envs.single_action_space.n)
    else:
        envs = layer(num_envs, kind.removeprefix("env_"))
        envs.reset()
        number = envs.num_actions

    def run_bare(calls: int) -> float:
        actions = rng.integers(number, size=(calls, num_envs))
        began = time.perf_counter()
        for action in actions:
            envs.step(action)
        return time.perf_counter() - began

    def run_layer(calls: int) -> float:
        actions = rng.integers(number, size=(calls, num_envs))
        began = time.perf_counter()
        for action in actions:
            done = envs.step(action).done
            if done.any():
                envs.reset_where(done)
        return time.perf_counter() - began

    run = run_bare if kind.startswith("emulator") else run_layer
    run(20)
    return run


def worker(connection: Connection, options: dict[str, Any]) -> None:
    """Answers ("rates", kinds, num_envs, agent steps over all environments) with the agent steps/s of each kind, by its name.

    Kinds take turns of a tenth of the steps, so that slow moments of the machine fall on all of them.
    """
    made = cache(subject)

    def rates(kinds: tuple[str, ...], num_envs: int, steps: int) -> dict[str, float]:
        calls = max(steps // num_envs // TURNS, 1)
        seconds = dict.fromkeys(kinds, 0.0)
        for _ in range(TURNS):
            for kind in kinds:
                seconds[kind] += made(kind, num_envs)(calls)
        return {kind: TURNS * calls * num_envs / taken for kind, taken in seconds.items()}

    serve(connection, {"rates": rates, "make": lambda kind, num_envs: made(kind, num_envs) is not None})
