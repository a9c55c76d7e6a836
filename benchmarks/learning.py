"""Training and one update, this repository's and Stable-Baselines3's. Each `*_worker` runs in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.process import Gate, serve
from common import papers
from common.environments.make import make_envs
from common.evaluation.protocol import play_steps
from common.learning.replay import Replay
from common.runs import command_line
from common.runs.estimate import Probe
from common.runs.run import Run

TASK = "pong"
NEVER = 10**9  # agent steps
EXPLORATION = 0.1  # epsilon, where the paper's agent spends 98 % of its steps
REPLAY_START = 200  # agent steps


def warm_up(num_envs: int) -> int:
    """Agent steps until the first slice, whole steps of all environments: a few updates have run."""
    return -(-(REPLAY_START + max(40, 5 * num_envs)) // num_envs) * num_envs


WARM_UP = warm_up(1)


class PausingRun(Run):
    """A run whose loop stops at a gate after each slice."""

    gate: Gate | None = None

    def tick(self, at: Any) -> None:
        super().tick(at)
        if self.device.type == "cuda" and self.gate is not None and at.agent_steps >= self.gate.until:
            torch.cuda.synchronize()  # the slice ends when its work does
        if self.gate is not None and self.gate(at.agent_steps):
            self._last_save = self._last_line = time.monotonic()  # the pause brings no checkpoint nearer


def open_run(
    paper: str,
    folder: Path,
    threads: int,
    overrides: dict[str, Any],
    run_class: type[Run] = PausingRun,
    variant: str | None = None,
    device: str = "cpu",
    task: str = TASK,
) -> tuple[Any, ModuleType, Any]:
    """A run below `folder` as the command line would make it: the run, the paper's script and its config."""
    resolved = papers.resolve(
        papers.load_paper(paper), variant, task, "paper", {"training_steps": NEVER} | overrides
    )
    script = importlib.import_module(f"replications.{paper}.train")
    run = run_class(resolved, 1, device=device, threads=command_line.prepare(1, threads), results=folder)
    run.open()
    return run, script, script.Config(**resolved.settings)


def throughput_settings(capacity: int, paper: str = "dqn") -> dict[str, Any]:
    """What differs from the paper's settings so that learning begins at once and only training is measured.

    epsilon is the paper's final one from the start. Names that the script's Config does not have are left out.
    """
    config = importlib.import_module(f"replications.{paper}.train").Config()
    final = getattr(config, "final_exploration", None)
    settings = {
        "replay_capacity": capacity,
        "replay_start": REPLAY_START,
        "initial_exploration": final,
        "final_exploration": final,
        "evaluation_period": NEVER,
    }
    return {name: value for name, value in settings.items() if hasattr(config, name) and value is not None}


def training_worker(connection: Connection, options: dict[str, Any]) -> None:
    """The script's own `train`, of a paper with a replay memory. Answers ("steps", n) with the seconds that n agent steps took,
    n a multiple of the number of environments.

    options: paper, folder, threads, capacity (transitions); and variant, device, task, warm_up (agent steps) where they are not
    the paper's own, the CPU, Pong, and the fewest.
    """
    paper, variant = options["paper"], options.get("variant")
    settings = throughput_settings(options["capacity"], paper)
    run, script, config = open_run(
        paper,
        options["folder"],
        options["threads"],
        settings,
        variant=variant,
        device=options.get("device", "cpu"),
        task=options.get("task", TASK),
    )
    run.gate = Gate(connection, max(warm_up(config.num_envs), options.get("warm_up", 0)))
    try:
        script.train(config, run)
    finally:
        run.close()


def on_policy_worker(connection: Connection, options: dict[str, Any]) -> None:
    """The script's own `train`, of a paper without replay memory. Answers ("steps", n) with the seconds that n agent steps took,
    n a multiple of an iteration's.

    options: paper, folder, threads; and variant, device, task, settings where they are not the paper's own, the CPU and Pong.
    """
    run, script, config = open_run(
        options["paper"],
        options["folder"],
        options["threads"],
        options.get("settings", {}),
        variant=options.get("variant"),
        device=options.get("device", "cpu"),
        task=options.get("task", TASK),
    )
    run.gate = Gate(connection, config.num_envs * config.rollout_steps)
    try:
        script.train(config, run)
    finally:
        run.close()


class TickingRun(Probe):
    """A run that leaves nothing behind and notes (agent steps, seconds) when its workers rest, rarely enough to cost nothing."""

    seconds_between_ticks = 0.5

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.ticks: list[tuple[int, float]] = []


def rate_after_a_quarter(ticks: list[tuple[int, float]], count: int) -> float:
    """Agent steps/s from the first tick at or after a quarter of `count` steps to the last tick: (agent steps, seconds) each."""
    kept = [tick for tick in ticks if tick[0] >= count / 4]
    if len(kept) < 2:
        raise ValueError(
            f"{count} agent steps were over before two ticks came after the first quarter; take more"
        )
    (first, began), (last, ended) = kept[0], kept[-1]
    return (last - first) / (ended - began)


def asynchronous_worker(connection: Connection, options: dict[str, Any]) -> None:
    """The script's own `train`, of a paper whose workers are processes. Answers ("rate", n) with agent steps/s.

    Nothing pauses inside: each answer is a training of n agent steps of its own, with as many workers as the script takes on this
    machine. options: paper, folder, threads, children (True).
    """
    paper = options["paper"]
    script = importlib.import_module(f"replications.{paper}.train")
    settings = throughput_settings(0, paper) | script.fit_to_machine(script.Config())
    number = 0

    def rate(count: int) -> float:
        nonlocal number
        number += 1
        folder = options["folder"] / str(number)
        run, _, config = open_run(
            paper, folder, options["threads"], settings | {"training_steps": count}, run_class=TickingRun
        )
        try:
            script.train(config, run)
        finally:
            run.close()
        return rate_after_a_quarter(run.ticks, count)

    serve(connection, {"rate": rate})


def kind_of_training(paper: str) -> str:
    """Which worker of this module measures the paper's script: by what its Config and module have."""
    script = importlib.import_module(f"replications.{paper}.train")
    names = {field.name for field in dataclasses.fields(script.Config)}
    if "replay_capacity" in names:
        return "training_worker"
    return "on_policy_worker" if "rollout_steps" in names else "asynchronous_worker"


def whole_iterations(paper: str, steps: int) -> int:
    """Agent steps, at least `steps`, of whole iterations of a script that steps its environments together."""
    config = importlib.import_module(f"replications.{paper}.train").Config()
    iteration = config.num_envs * config.rollout_steps
    return -(-steps // iteration) * iteration


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
    wrappers = {
        "noop_max": c.noop_max,
        "frame_skip": c.frame_skip,
        "terminal_on_life_loss": c.life_loss_terminal,
    }
    envs = VecFrameStack(
        make_atari_env("PongNoFrameskip-v4", n_envs=c.num_envs, seed=1, wrapper_kwargs=wrappers),
        n_stack=c.stack,
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


def sb3_control_worker(connection: Connection, options: dict[str, Any]) -> None:
    """Stable-Baselines3's PPO on a MuJoCo task at the script's hyper-parameters: `MlpPolicy`, whose networks are the paper's.

    Its observations are not filtered, which would cost it more. Answers ("steps", n) with the seconds that n agent steps took, n a
    multiple of an iteration's. options: task, threads.
    """
    import gymnasium
    import mujoco
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    mujoco.set_mju_user_warning(lambda _: None)  # or it leaves a log file in the current folder
    torch.set_num_threads(options["threads"])
    resolved = papers.resolve(papers.load_paper("ppo"), None, options["task"], "paper")
    c = importlib.import_module("replications.ppo.train").Config(**resolved.settings)
    model = PPO(
        "MlpPolicy", gymnasium.make(resolved.task.env_id), learning_rate=c.learning_rate, n_steps=c.rollout_steps,
        batch_size=c.minibatch_size, n_epochs=c.epochs, gamma=c.discount, gae_lambda=c.gae_lambda, clip_range=c.clip,
        ent_coef=c.entropy_coefficient, vf_coef=c.value_coefficient, seed=1, device="cpu",
    )  # fmt: skip
    gate = Gate(connection, c.num_envs * c.rollout_steps)

    class Slices(BaseCallback):
        def _on_rollout_start(self) -> None:  # whole iterations, with their updates
            gate(self.num_timesteps)

        def _on_step(self) -> bool:
            return True

    model.learn(total_timesteps=NEVER, callback=Slices(), log_interval=None)


def sb3_ddpg_worker(connection: Connection, options: dict[str, Any]) -> None:
    """Stable-Baselines3's DDPG at the script's hyper-parameters, as far as it has them: no batch normalisation, no weight decay, one
    learning rate, the action at the critic's input, and no second critic.

    Answers ("steps", n) with the seconds that n agent steps took. options: task, threads, capacity (transitions).
    """
    import gymnasium
    import mujoco
    from stable_baselines3 import DDPG
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

    mujoco.set_mju_user_warning(lambda _: None)  # or it leaves a log file in the current folder
    torch.set_num_threads(options["threads"])
    resolved = papers.resolve(papers.load_paper("ddpg"), None, options["task"], "paper")
    c = importlib.import_module("replications.ddpg.train").Config(**resolved.settings)
    env = gymnasium.make(resolved.task.env_id)
    zeros = np.zeros(env.action_space.shape)
    noise = OrnsteinUhlenbeckActionNoise(zeros, zeros + c.noise_sigma, c.noise_theta, c.noise_step)
    model = DDPG(
        "MlpPolicy", env, learning_rate=c.critic_learning_rate, buffer_size=options["capacity"], learning_starts=REPLAY_START,
        batch_size=c.batch_size, tau=c.target_rate, gamma=c.discount, train_freq=1, gradient_steps=1, action_noise=noise,
        policy_kwargs={"net_arch": [400, 300]}, seed=1, device="cpu",
    )  # fmt: skip
    gate = Gate(connection, WARM_UP)

    class Slices(BaseCallback):
        def _on_step(self) -> bool:
            gate(self.num_timesteps)
            return True

    model.learn(total_timesteps=NEVER, callback=Slices(), log_interval=None)


def evaluation_worker(connection: Connection, options: dict[str, Any]) -> None:
    """The script's evaluation phase. Answers ("steps", n) with the seconds that n agent steps took."""
    run, script, config = open_run(options["paper"], options["folder"], options["threads"], {})
    run.close()
    envs = make_envs(config, run.task, 1, 1)
    policy = script.make_policy(script.make_network(config, envs).to(run.device), config)
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
    wrappers = {
        "noop_max": c.noop_max,
        "frame_skip": c.frame_skip,
        "terminal_on_life_loss": c.life_loss_terminal,
    }
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
    gate = Gate(
        connection, WARM_UP, sum(array.nbytes for array in arrays if array is not None) / options["capacity"]
    )

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
    command_line.prepare(1, options["threads"])
    script = importlib.import_module(f"replications.{options['paper']}.train")
    c, rng = script.Config(), np.random.default_rng(1)
    replay = Replay(1000, (84, 84), stack=c.stack)
    replay.begin_episodes(rng.integers(256, size=(1, 84, 84), dtype=np.uint8))
    for _ in range(999):
        obs = rng.integers(256, size=(1, 84, 84), dtype=np.uint8)
        replay.add(rng.integers(6, size=1), rng.integers(-1, 2, size=1), rng.random(1) < 0.001, obs)
    spaces = SimpleNamespace(num_actions=6, obs_shape=(84, 84), action_shape=())
    q, target = (script.make_network(c, spaces) for _ in range(2))
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
        return {
            k: 1000 * statistics.median(v)
            for k, v in zip(names, (whole, *zip(*parts, strict=True)), strict=True)
        }

    update(3)
    serve(connection, {"update": update})
