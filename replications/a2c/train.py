"""Synchronous advantage actor-critic (A2C): OpenAI Baselines, 2017; a baseline of Schulman et al. 2017 ("PPO"), Table 6.

This is A3C (2016) without its asynchrony: environments step together with one policy, and one update learns from all of them
at once. With that come the released code's own constants: the network of 2015 in place of that of 2013, orthogonal initial
weights, means in place of sums, a small epsilon in RMSProp, a smaller bound on the gradient.
`paper.yaml` beside this file lists every constant with its source, and every point where this script differs from it.

Units: an agent step is one decision, usually 4 emulator frames; an update is one step of the optimiser, after 5 agent steps in
each of 16 environments. Loops count agent steps.

    ./run python -m replications.a2c.train --task pong --seed 1 --budget hour
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from common.environments.atari import FrameStack
from common.environments.make import make_envs
from common.evaluation.protocol import Policy
from common.learning.layers import fast_layers, flatten_parameters
from common.runs.command_line import main
from common.runs.progress import Progress, times_due
from common.runs.run import Run

# --- constants ---


@dataclass(frozen=True)
class Config:
    """Defaults are those of the released code of the table's year (`learn` of baselines/a2c/a2c.py), the length that of the table."""

    training_steps: int = (
        10_000_000  # agent steps of all environments together; Schulman et al. 2017, Table 6 (40M frames)
    )
    num_envs: int = 16  # environments, stepped together; not stated, see paper.yaml
    frame_skip: int = 4  # frames per agent step; released code
    stack: int = 4  # frames; released code
    noop_max: int = 30  # frames; released code
    fire_reset: bool = True  # in games that have it; released code
    max_frames: int = 400_000  # of a game in training; gym's, which the released code plays with
    preprocessing: Literal["nature", "ale"] = "nature"  # released code
    life_loss_terminal: bool = True  # released code
    reward_clip: float = 1.0  # raw score; released code (the sign; scores are whole numbers)

    network: Literal["nature", "mlp"] = "nature"  # released code; "mlp" for vector observations
    rollout_steps: int = 5  # agent steps per environment and update; "nsteps"
    discount: float = 0.99  # "gamma"
    value_coefficient: float = 0.25  # of the mean squared error; "vf_coef" 0.5 times half of it
    entropy_coefficient: float = 0.01  # "ent_coef"

    learning_rate: float = 0.0007  # "lr"
    anneal_learning_rate: bool = True  # linearly to 0; "lrschedule"
    squared_gradient_decay: float = 0.99  # "alpha"
    min_squared_gradient: float = 0.00001  # inside the root; "epsilon"
    first_mean_square: float = 1.0  # what RMSProp's mean square is before the first update; TensorFlow's
    gradient_norm_clip: float = 0.5  # global norm; "max_grad_norm"

    log_period: int = 20_000  # agent steps between rows of the learning curve; ours


CURVE = ("policy_loss", "value_loss", "entropy")


# --- networks ---


class Heads(NamedTuple):
    """outputs: (B, A) logits; values: (B,)."""

    outputs: torch.Tensor
    values: torch.Tensor


class ScreenNetwork(nn.Module):
    """A shared torso with a policy and a value head: 32 8x8 stride 4, 64 4x4 stride 2, 64 3x3 stride 1, 512 units (Mnih et al.
    2015)."""

    def __init__(self, num_actions: int, stack: int):
        super().__init__()
        self.torso = nn.Sequential(
            nn.Conv2d(stack, 32, 8, 4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, 512), nn.ReLU(),
        )  # fmt: skip
        self.policy, self.value = nn.Linear(512, num_actions), nn.Linear(512, 1)
        initialise(self)

    def forward(self, states: torch.Tensor) -> Heads:
        """states: (B, stack, 84, 84) uint8."""
        features = self.torso(states / 255)
        return Heads(self.policy(features), self.value(features).squeeze(1))


class MLP(nn.Module):
    """For vector observations (CartPole): two layers of 64 tanh units, policy and value apart; not in the table."""

    def __init__(self, num_actions: int, inputs: int):
        super().__init__()

        def layers() -> nn.Sequential:
            return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())

        self.policy_torso, self.policy = layers(), nn.Linear(64, num_actions)
        self.value_torso, self.value = layers(), nn.Linear(64, 1)
        initialise(self)

    def forward(self, states: torch.Tensor) -> Heads:
        """states: (B, stack, inputs)."""
        return Heads(self.policy(self.policy_torso(states)), self.value(self.value_torso(states)).squeeze(1))


def initialise(module: nn.Module) -> None:
    """Orthogonal with gain sqrt(2), 1 for the last layers, biases 0 (released code until January 2018)."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, 1.0 if name in ("policy", "value") else math.sqrt(2))
            nn.init.zeros_(layer.bias)


def make_network(config: Config, envs) -> nn.Module:
    """The network for these environments' observations and actions."""
    if config.network == "mlp":
        return MLP(envs.num_actions, config.stack * int(np.prod(envs.obs_shape)))
    return fast_layers(ScreenNetwork(envs.num_actions, config.stack))


# --- learning rule ---


def annealing(step: int, config: Config) -> float:
    """1 at the start, 0 at the end of training; one value per update."""
    return 1 - step / config.training_steps


def n_step_returns(
    rewards: np.ndarray, last_values: np.ndarray, ends: np.ndarray, discount: float
) -> np.ndarray:
    """R_t = r_t + discount R_{t+1}, from R = V(s_{t+n}) after the last row; the longest return each state can have, (T, N).

    ends: (T, N), the episode was over with step t, and nothing that follows counts; a time limit is an end too (released code).
    last_values: (N,), V of what follows the last row.
    """
    returns, following = np.zeros_like(rewards), last_values
    for t in reversed(range(len(rewards))):
        following = rewards[t] + discount * following * ~ends[t]
        returns[t] = following
    return returns


def a2c_loss(
    heads: Heads, actions: torch.Tensor, returns: torch.Tensor, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """To be minimised: mean(-log pi(a|s) (R - V)) + .25 mean((R - V)^2) - .01 mean(entropy), R - V constant in the first term.

    heads, actions (B,) int64 and returns (B,) of all environments and steps of an update. Returns the loss, and what the
    learning curve shows of it: (4,), in the order loss, *CURVE.
    """
    c, logs = config, heads.outputs.log_softmax(dim=1)
    error = returns - heads.values
    policy_loss = -(logs.gather(1, actions.unsqueeze(1)).squeeze(1) * error.detach()).mean()
    value_loss, entropy = (error**2).mean(), -(logs.exp() * logs).sum(dim=1).mean()
    loss = policy_loss + c.value_coefficient * value_loss - c.entropy_coefficient * entropy
    return loss, torch.stack([loss, policy_loss, value_loss, entropy]).detach()


class RMSProp:
    """TensorFlow's: not centred, epsilon inside the root, the mean square 1 at the start. With d the gradient of the loss,

    s <- .99 s + .01 d^2;  w <- w - learning_rate d / sqrt(s + .00001).
    """

    def __init__(self, module: nn.Module, config: Config):
        self.weights, self.gradient = flatten_parameters(module)
        self.mean_square = torch.full_like(self.weights, config.first_mean_square)
        self.config = config

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        c, d = self.config, self.gradient
        d.mul_((c.gradient_norm_clip / (d.norm() + 1e-12)).clamp(max=1))
        self.mean_square.mul_(c.squared_gradient_decay).addcmul_(d, d, value=1 - c.squared_gradient_decay)
        self.weights.addcdiv_(d, (self.mean_square + c.min_squared_gradient).sqrt_(), value=-learning_rate)

    def state_dict(self) -> dict:
        return {"mean_square": self.mean_square}

    def load_state_dict(self, state: dict) -> None:
        self.mean_square.copy_(torch.as_tensor(state["mean_square"]))


# --- training ---


def sample(heads: Heads, rngs: list[np.random.Generator]) -> np.ndarray:
    """One action per state, (N,) int64; rngs: one generator per state, or one for all."""
    outputs = heads.outputs.cpu().numpy()
    probabilities = np.exp(outputs - outputs.max(axis=1, keepdims=True), dtype=np.float64)
    sums = probabilities.cumsum(axis=1)
    drawn = np.concatenate([rng.random(len(outputs) // len(rngs)) for rng in rngs])
    return (sums <= drawn[:, None] * sums[:, -1:]).sum(axis=1)


def train(config: Config, run: Run) -> None:
    c, rng = config, np.random.default_rng(run.seed)
    envs = make_envs(c, run.task, c.num_envs, run.seed)
    net = make_network(c, envs).to(run.device)
    optimiser = RMSProp(net, c)
    stack = FrameStack.of(envs, c.stack)
    metrics = torch.zeros(4, device=run.device)  # sums of loss and CURVE since the last row of the curve
    progress = Progress()
    resumed = run.resume(
        progress, rng=rng, envs=envs, net=net, optimiser=optimiser, stack=stack, metrics=metrics
    )
    if not resumed:
        stack.begin_episodes(envs.reset(), np.ones(c.num_envs, dtype=bool))

    steps = c.rollout_steps, c.num_envs
    for _ in run.steps(progress):
        learning_rate = c.learning_rate * (
            annealing(progress.agent_steps, c) if c.anneal_learning_rate else 1.0
        )
        began = progress.agent_steps

        # N environments step together for n steps with one policy
        states, actions = [], []
        rewards, ends = np.zeros(steps), np.zeros(steps, dtype=bool)
        for t in range(c.rollout_steps):
            states.append(as_states(stack.planes.copy(), net))
            with torch.no_grad():
                actions.append(sample(net(states[-1]), [rng]))
            step = envs.step(actions[-1])
            progress.advance(c.num_envs)
            ends[t] = step.done | (step.life_lost & c.life_loss_terminal)
            rewards[t] = step.rewards.clip(-c.reward_clip, c.reward_clip)
            stack.push(step.obs)
            if step.done.any():
                run.log_episodes(progress, step)
                stack.begin_episodes(envs.reset_where(step.done), step.done)

        # R_t: the n-step return, bootstrapped with V(s_{t+n}) unless the episode ended; one update on all N n samples
        returns = n_step_returns(rewards, value(net, stack.planes), ends, c.discount)
        targets = torch.from_numpy(returns.astype(np.float32).reshape(-1)).to(run.device)
        chosen = torch.from_numpy(np.concatenate(actions)).to(run.device)
        loss, numbers = a2c_loss(net(torch.cat(states)), chosen, targets, c)
        optimiser.gradient.zero_()
        loss.backward()
        optimiser.step(learning_rate)
        metrics += numbers
        progress.updates += 1
        run.check_finite(metrics, progress)
        if times_due(c.log_period, began, progress.agent_steps) or progress.agent_steps >= c.training_steps:
            means = (metrics / (progress.updates - progress.updates_logged)).tolist()
            run.log_phase(
                progress, None, learning_rate=learning_rate, **dict(zip(("loss", *CURVE), means, strict=True))
            )
            metrics.zero_()
            progress.updates_logged = progress.updates

    run.finish(progress, net)


def as_states(planes: np.ndarray, net: nn.Module) -> torch.Tensor:
    """Stacked observations (N, stack, *obs_shape) on the network's device."""
    return torch.from_numpy(planes).to(next(net.parameters()).device)


@torch.no_grad()
def value(net: nn.Module, planes: np.ndarray) -> np.ndarray:
    """V of stacked observations (N, stack, *obs_shape) -> (N,) float32."""
    return net(as_states(planes, net)).values.cpu().numpy()


# --- evaluation and command line ---


def make_policy(net: nn.Module, config: Config) -> Policy:
    """What is evaluated: it samples its actions."""

    @torch.no_grad()
    def policy(states: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        return sample(net(as_states(states, net)), rngs)

    return policy


if __name__ == "__main__":
    main("a2c", Config, train)
