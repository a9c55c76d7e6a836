"""Training and one update, this repository's and Stable-Baselines3's. Each `*_worker` runs in a process of its own."""

from __future__ import annotations

import importlib
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.process import Gate, serve
from common import papers
from common import run as runs
from common.evaluation import play_steps
from common.replay import Replay

TASK = "pong"
NEVER = 10**9  # agent steps
EXPLORATION = 0.1  # epsilon, where the paper's agent spends 98 % of its steps
REPLAY_START = 200  # agent steps
WARM_UP = REPLAY_START + 40  # agent steps until the first slice: a few updates have run


class PausingRun(runs.Run):
    """A run whose loop stops at a gate after each slice."""

    gate: Gate | None = None

    def tick(self, at: Any) -> None:
        super().tick(at)
        if self.gate is not None and self.gate(at.agent_steps):
            self._last_save = self._last_line = time.monotonic()  # the pause brings no checkpoint nearer


def open_run(
    paper: str,
    folder: Path,
    threads: int,
    overrides: dict[str, Any],
    run_class: type[runs.Run] = PausingRun,
    variant: str | None = None,
) -> tuple[Any, ModuleType, Any]:
    """A run of Pong below `folder` as the command line would make it: the run, the paper's script and its config."""
    resolved = papers.resolve(papers.load_paper(paper), variant, TASK, "paper", {"training_steps": NEVER} | overrides)
    script = importlib.import_module(f"replications.{paper}.train")
    run = run_class(resolved, 1, device="cpu", threads=runs.prepare(1, threads), results=folder)
    run.open()
    return run, script, script.Config(**resolved.settings)


def throughput_settings(capacity: int) -> dict[str, Any]:
    """What differs from the paper's settings so that learning begins at once and only training is measured."""
    return {
        "replay_capacity": capacity,
        "replay_start": REPLAY_START,
        "initial_exploration": EXPLORATION,
        "final_exploration": EXPLORATION,
        "evaluation_period": NEVER,
    }


def training_worker(connection: Connection, options: dict[str, Any]) -> None:
    """The script's own `train`. Answers ("steps", n) with the seconds that n agent steps took.

    options: paper, folder, threads, capacity (transitions).
    """
    settings = throughput_settings(options["capacity"])
    run, script, config = open_run(options["paper"], options["folder"], options["threads"], settings)
    run.gate = Gate(connection, WARM_UP)
    try:
        script.train(config, run)
    finally:
        run.close()


def on_policy_worker(connection: Connection, options: dict[str, Any]) -> None:
    """The script's own `train`, of a paper without replay memory. Answers ("steps", n) with the seconds that n agent steps took,
    n a multiple of an iteration's.

    options: paper, variant, folder, threads.
    """
    run, script, config = open_run(
        options["paper"], options["folder"], options["threads"], {}, variant=options["variant"]
    )
    run.gate = Gate(connection, config.num_envs * config.rollout_steps)
    try:
        script.train(config, run)
    finally:
        run.close()


def sb3_ppo_worker(connection: Connection, options: dict[str, Any]) -> None:
    """Stable-Baselines3's PPO with its own Atari wrappers at the hyper-parameters of the variant `ppo2`.

    Answers ("steps", n) with the seconds that n agent steps took, n a multiple of an iteration's. options: threads.
    """
    import ale_py
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    torch.set_num_threads(options["threads"])
    resolved = papers.resolve(papers.load_paper("ppo"), "ppo2", TASK, "paper")
    c = importlib.import_module("replications.ppo.train").Config(**resolved.settings)
    wrappers = {"noop_max": c.noop_max, "frame_skip": c.frame_skip, "terminal_on_life_loss": c.life_loss_terminal}
    envs = VecFrameStack(
        make_atari_env("PongNoFrameskip-v4", n_envs=c.num_envs, seed=1, wrapper_kwargs=wrappers), n_stack=c.stack
    )
    model = PPO(
        "CnnPolicy",
        envs,
        learning_rate=c.learning_rate,
        n_steps=c.rollout_steps,
        batch_size=c.minibatch_size,
        n_epochs=c.epochs,
        gamma=c.discount,
        gae_lambda=c.gae_lambda,
        clip_range=c.clip,
        clip_range_vf=c.clip,
        ent_coef=c.entropy_coefficient,
        vf_coef=c.value_coefficient,
        max_grad_norm=c.gradient_norm_clip,
        seed=1,
        device="cpu",
    )
    gate = Gate(connection, c.num_envs * c.rollout_steps)

    class Slices(BaseCallback):
        def _on_step(self) -> bool:
            gate(self.num_timesteps)
            return True

    model.learn(total_timesteps=NEVER, callback=Slices(), log_interval=None)


def evaluation_worker(connection: Connection, options: dict[str, Any]) -> None:
    """The script's evaluation phase. Answers ("steps", n) with the seconds that n agent steps took."""
    run, script, config = open_run(options["paper"], options["folder"], options["threads"], {})
    run.close()
    envs = script.make_envs(config, run.task, 1, 1)
    policy = script.greedy(script.make_network(config, envs.num_actions, envs.obs_shape), run.device)
    rng = np.random.default_rng(1)

    def steps(count: int) -> float:
        began = time.perf_counter()
        play_steps(policy, envs, config.stack, count, config.evaluation_epsilon, rng)
        return time.perf_counter() - began

    steps(50)
    serve(connection, {"steps": steps})


def sb3_worker(connection: Connection, options: dict[str, Any]) -> None:
    """Stable-Baselines3's DQN with its own Atari wrappers and its own optimiser (Adam), at the script's hyper-parameters.

    Answers ("steps", n) with the seconds that n agent steps took; when ready, sends the bytes per transition of its buffer.
    options: paper, threads, capacity (transitions).
    """
    import ale_py
    import gymnasium
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    torch.set_num_threads(options["threads"])
    c = importlib.import_module(f"replications.{options['paper']}.train").Config()
    wrappers = {"noop_max": c.noop_max, "frame_skip": c.frame_skip, "terminal_on_life_loss": c.life_loss_terminal}
    envs = VecFrameStack(
        make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=1, wrapper_kwargs=wrappers), n_stack=c.stack
    )
    model = DQN(
        "CnnPolicy",
        envs,
        learning_rate=c.learning_rate,
        buffer_size=options["capacity"],
        learning_starts=REPLAY_START,
        batch_size=c.batch_size,
        gamma=c.discount,
        train_freq=c.update_period,
        gradient_steps=1,
        target_update_interval=c.target_period,
        exploration_initial_eps=EXPLORATION,
        exploration_final_eps=EXPLORATION,
        seed=1,
        device="cpu",
    )
    buffer = model.replay_buffer
    arrays = (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards, buffer.dones)
    gate = Gate(connection, WARM_UP, sum(array.nbytes for array in arrays if array is not None) / options["capacity"])

    class Slices(BaseCallback):
        def _on_step(self) -> bool:
            gate(self.num_timesteps)
            return True

    model.learn(total_timesteps=NEVER, callback=Slices(), log_interval=None)


def update_worker(connection: Connection, options: dict[str, Any]) -> None:
    """One update of the script's learning rule on batches of random frames. Answers ("update", n) with milliseconds.

    The answer: {"whole", "target_forward", "forward_backward", "optimiser"}, medians over n updates. The parts are timed on
    updates of their own, alternating with whole ones.
    """
    runs.prepare(1, options["threads"])
    script = importlib.import_module(f"replications.{options['paper']}.train")
    c, rng = script.Config(), np.random.default_rng(1)
    replay = Replay(1000, (84, 84), stack=c.stack)
    replay.start(rng.integers(256, size=(1, 84, 84), dtype=np.uint8))
    for _ in range(999):
        obs = rng.integers(256, size=(1, 84, 84), dtype=np.uint8)
        replay.add(rng.integers(6, size=1), rng.integers(-1, 2, size=1), rng.random(1) < 0.001, obs)
    q, target = (script.make_network(c, 6, (84, 84)) for _ in range(2))
    optimiser = script.RMSProp(q, c)

    def split(batch: Any) -> tuple[float, float, float]:
        times = [time.perf_counter()]
        with torch.no_grad():
            targets = script.q_targets(batch.rewards, target(batch.next_states), batch.terminals, c.discount)
        times.append(time.perf_counter())
        loss = script.q_loss(q(batch.states), batch.actions, targets, c.error_clip)
        optimiser.gradient.zero_()
        loss.backward()
        times.append(time.perf_counter())
        optimiser.step()
        times.append(time.perf_counter())
        return times[1] - times[0], times[2] - times[1], times[3] - times[2]

    def update(count: int) -> dict[str, float]:
        whole, parts = [], []
        for _ in range(count):
            batch = replay.sample(rng, c.batch_size)
            began = time.perf_counter()
            script.update(q, target, optimiser, batch, c)
            whole.append(time.perf_counter() - began)
            parts.append(split(replay.sample(rng, c.batch_size)))
        names = ("whole", "target_forward", "forward_backward", "optimiser")
        return {k: 1000 * statistics.median(v) for k, v in zip(names, (whole, *zip(*parts, strict=True)), strict=True)}

    update(3)
    serve(connection, {"update": update})
