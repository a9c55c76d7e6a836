"""Proximal Policy Optimisation (2017): Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347.

This is an actor-critic with: several actors that play a fixed number of steps with one policy; advantages by generalised
advantage estimation; several epochs of minibatch updates on those steps, held near the old policy by clipping the ratio of new
to old probabilities (or by a penalty on the divergence). There is no replay memory and no target network.
`paper.yaml` beside this file lists every constant with its source, and every point where this script differs from the paper.

Units: an agent step is one decision, usually 4 emulator frames; an iteration is one rollout of all actors with its updates; an
update is one step of the optimiser. Loops count agent steps.

    ./run python -m replications.ppo.train --task pong --seed 1 --budget hour
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from common.environments.atari import FrameStack
from common.environments.make import make_envs
from common.errors import UserError
from common.evaluation.protocol import Policy
from common.learning.fast import CudaGraphed
from common.learning.layers import RunningMoments, fast_layers, flatten_parameters
from common.runs import progress as counting
from common.runs.command_line import main
from common.runs.progress import times_due
from common.runs.run import Run

# --- constants ---


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's for Atari (its Table 5); a field that the paper has no word on says so."""

    training_steps: int = 10_000_000  # agent steps of all actors together (40M frames); Section 6.4
    num_envs: int = 8  # actors, stepped together; Table 5 "number of actors"
    frame_skip: int = 4  # frames per agent step; not in the paper
    stack: int = 4  # frames; not in the paper
    noop_max: int = 30  # frames; not in the paper
    preprocessing: Literal["area", "nature", "ale"] = "area"  # not in the paper; released code
    life_loss_terminal: bool = True  # not in the paper; released code
    reward_clip: float = 1.0  # raw score, 0: no clipping; not in the paper; released code
    normalise: bool = False  # observations and rewards by running moments; released code, for MuJoCo

    network: Literal["small", "nature", "mlp"] = "small"  # "same as Mni+16"; "mlp" for vectors: Section 6.1
    rollout_steps: int = 128  # agent steps per actor and iteration; Table 5 "horizon (T)"
    epochs: int = 3  # over the steps of an iteration; Table 5 "num. epochs"
    minibatch_size: int = 256  # agent steps; Table 5, 32 x 8
    discount: float = 0.99  # Table 5
    gae_lambda: float = 0.95  # Table 5 "GAE parameter"

    objective: Literal["clip", "none", "adaptive_kl"] = "clip"  # Equations 7, 6 and 8
    clip: float = 0.1  # on the ratio's distance from 1; Table 5, times alpha
    anneal_clip: bool = True  # alpha falls linearly from 1 to 0 over training; Table 5
    kl_target: float = 0.01  # nats; Table 1, for adaptive_kl
    kl_coefficient: float = 1.0  # of the penalty at the start; not in the paper, for adaptive_kl
    value_coefficient: float = 1.0  # of the squared error; Table 5 "VF coeff."
    value_clip: bool = False  # ppo2
    entropy_coefficient: float = 0.01  # Table 5
    normalise_advantages: Literal["no", "batch", "minibatch"] = "no"  # released codes

    learning_rate: float = 0.00025  # Adam; Table 5, times alpha
    anneal_learning_rate: bool = True  # Table 5
    adam_epsilon: float = 1e-8  # Adam's own default
    gradient_norm_clip: float = 0.0  # global norm, 0: none; ppo2

    log_period: int = 20_000  # agent steps between rows of the learning curve; ours
    cuda_graph: bool = (
        False  # on a GPU, acting and a gradient step are launched as one graph each: the same numbers
    )


CURVE = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


# --- networks ---


class Heads(NamedTuple):
    """outputs: (B, A) logits, or means where `log_std` (A,) is given; values: (B,)."""

    outputs: torch.Tensor
    values: torch.Tensor
    log_std: torch.Tensor | None = None


class ScreenNetwork(nn.Module):
    """A shared torso with a policy and a value head. "small": 16 8x8 stride 4, 32 4x4 stride 2, 256 units (Mnih et al. 2013 and
    2016); "nature": 32 8x8 stride 4, 64 4x4 stride 2, 64 3x3 stride 1, 512 units (Mnih et al. 2015)."""

    def __init__(self, num_actions: int, stack: int, kind: str):
        super().__init__()
        if kind == "small":
            convolutions = [nn.Conv2d(stack, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2)]
            flat, units = 2592, 256
        else:
            convolutions = [
                nn.Conv2d(stack, 32, 8, 4),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, 2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3),
            ]
            flat, units = 3136, 512
        self.torso = nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(flat, units), nn.ReLU())
        self.policy, self.value = nn.Linear(units, num_actions), nn.Linear(units, 1)
        initialise(self)

    def forward(self, states: torch.Tensor) -> Heads:
        """states: (B, stack, 84, 84) uint8."""
        features = self.torso(states / 255)
        return Heads(self.policy(features), self.value(features).squeeze(1))


class MLP(nn.Module):
    """Section 6.1: two layers of 64 tanh units, policy and value apart; Gaussian actions with a standard deviation that does not
    depend on the state. Observations are normalised by moments that are part of the weights; 0 and 1 leave them alone."""

    def __init__(self, num_actions: int, inputs: int, continuous: bool):
        super().__init__()

        def layers(outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
            )

        policy, value = layers(num_actions), layers(1)
        self.policy_torso, self.policy, self.value_torso, self.value = (
            policy[:-1],
            policy[-1],
            value[:-1],
            value[-1],
        )
        self.log_std = nn.Parameter(torch.zeros(num_actions)) if continuous else None
        initialise(self)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))

    def normalised(self, observations: torch.Tensor) -> torch.Tensor:
        """(B, 1, inputs) -> (B, inputs), within ten standard deviations (released code)."""
        return ((observations.flatten(1) - self.mean) / self.std).clamp(-10, 10)

    def forward(self, states: torch.Tensor) -> Heads:
        """states: (B, inputs), normalised."""
        return Heads(
            self.policy(self.policy_torso(states)),
            self.value(self.value_torso(states)).squeeze(1),
            self.log_std,
        )


def initialise(module: nn.Module) -> None:
    """Orthogonal with gain sqrt(2), 0.01 for the policy's last layer and 1 for the value's, biases 0 (released code, ppo2)."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            gain = {"policy": 0.01, "value": 1.0}.get(name, math.sqrt(2))
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)


def make_network(config: Config, envs) -> nn.Module:
    """The network for these environments' observations and actions."""
    if config.network == "mlp":
        inputs = config.stack * int(np.prod(envs.obs_shape))
        return MLP(envs.num_actions, inputs, continuous=bool(envs.action_shape))
    return fast_layers(ScreenNetwork(envs.num_actions, config.stack, config.network))


def prepare(net: nn.Module, planes: np.ndarray) -> torch.Tensor:
    """What the network is given for stacked observations (N, stack, *obs_shape)."""
    states = torch.from_numpy(planes).to(next(net.parameters()).device)
    return net.normalised(states) if isinstance(net, MLP) else states


# --- learning rule ---


def annealing(step: int, config: Config) -> float:
    """alpha: 1 at the start, 0 at the end of training; one value per iteration."""
    return 1 - step / config.training_steps


def gae(
    rewards: np.ndarray, values: np.ndarray, last_values: np.ndarray, terminals: np.ndarray, ends: np.ndarray,
    cut_values: np.ndarray, discount: float, lam: float,
) -> np.ndarray:  # fmt: skip
    """Equations 11 and 12: A_t = delta_t + discount lam A_{t+1}, delta_t = r_t + discount V(s_{t+1}) - V(s_t), all (T, N).

    terminals: nothing is worth anything after step t. ends: the episode ended with step t for any reason, and the sum stops.
    cut_values: V of the last observation where a time cap ended the episode, whose next state is not the next row's.
    last_values: (N,), V of the observation that follows the last row.
    """
    advantages = np.zeros_like(rewards)
    following, advantage = last_values, np.zeros_like(last_values)
    for t in reversed(range(len(rewards))):
        next_values = np.where(ends[t], cut_values[t], following) * ~terminals[t]
        advantage = rewards[t] + discount * next_values - values[t] + discount * lam * advantage * ~ends[t]
        advantages[t], following = advantage, values[t]
    return advantages


def log_probs_and_entropy(heads: Heads, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of actions (B,) int64 or (B, A) float32: their log-probabilities (B,), and the entropy of each distribution (B,)."""
    if heads.log_std is None:
        logs = heads.outputs.log_softmax(dim=1)
        return logs.gather(1, actions.unsqueeze(1)).squeeze(1), -(logs.exp() * logs).sum(dim=1)
    std = heads.log_std.exp()
    logs = -0.5 * ((actions - heads.outputs) / std) ** 2 - heads.log_std - 0.5 * math.log(2 * math.pi)
    entropy = (heads.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
    return logs.sum(dim=1), entropy.expand(len(actions))


def divergence(old: Heads, new: Heads) -> torch.Tensor:
    """KL(old || new) of each state, (B,), in nats."""
    if new.log_std is None:
        old_logs = old.outputs.log_softmax(dim=1)
        return (old_logs.exp() * (old_logs - new.outputs.log_softmax(dim=1))).sum(dim=1)
    old_variance, variance = (2 * old.log_std).exp(), (2 * new.log_std).exp()
    terms = (
        (old_variance + (old.outputs - new.outputs) ** 2) / (2 * variance) - 0.5 + new.log_std - old.log_std
    )
    return terms.sum(dim=1)


class Minibatch(NamedTuple):
    """Of B agent steps: what was seen and done, and what the policy that played (the old one) said of it."""

    states: torch.Tensor
    actions: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    log_probs: torch.Tensor
    values: torch.Tensor
    outputs: torch.Tensor


def surrogate(ratio: torch.Tensor, advantages: torch.Tensor, objective: str, clip: float) -> torch.Tensor:
    """To be maximised, (B,): Equation 7, min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), or Equation 6, ratio A."""
    if objective != "clip":
        return ratio * advantages
    return torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def ppo_loss(
    heads: Heads,
    batch: Minibatch,
    old_log_std: torch.Tensor | None,
    clip: torch.Tensor,
    beta: torch.Tensor,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 9 negated, to be minimised, and what the learning curve shows of it: (6,), in the order loss, *CURVE.

    clip and beta are scalars.
    """
    c, advantages = config, batch.advantages
    if c.normalise_advantages == "minibatch":
        advantages = standardised(advantages)
    log_probs, entropy = log_probs_and_entropy(heads, batch.actions)
    log_ratio = log_probs - batch.log_probs
    ratio = log_ratio.exp()
    gain = surrogate(ratio, advantages, c.objective, clip).mean()
    if c.objective == "adaptive_kl":
        gain = gain - beta * divergence(Heads(batch.outputs, batch.values, old_log_std), heads).mean()
    error = (heads.values - batch.returns) ** 2
    if c.value_clip:
        near = batch.values + (heads.values - batch.values).clamp(-clip, clip)
        error = torch.max(error, (near - batch.returns) ** 2)
    loss = -gain + c.value_coefficient * error.mean() - c.entropy_coefficient * entropy.mean()
    with torch.no_grad():
        kl = (ratio - 1 - log_ratio).mean()  # an estimate of KL(old || new) that is never negative
        clipped = ((ratio - 1).abs() > clip).float().mean()
        shown = torch.stack([loss, -gain, error.mean(), entropy.mean(), kl, clipped])
    return loss, shown


def standardised(advantages: torch.Tensor) -> torch.Tensor:
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)


class Adam:
    """Kingma and Ba (2015), with bias correction: m <- .9 m + .1 d; v <- .999 v + .001 d^2; w <- w - rate m^ / (sqrt(v^) + eps)."""

    def __init__(self, module: nn.Module, config: Config):
        self.weights, self.gradient = flatten_parameters(module)
        self.mean, self.mean_square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.steps, self.config = torch.zeros((), dtype=torch.float64, device=self.weights.device), config

    @torch.no_grad()
    def step(self, learning_rate: torch.Tensor) -> None:
        """learning_rate: a scalar."""
        d = self.gradient
        if self.config.gradient_norm_clip:
            d.mul_((self.config.gradient_norm_clip / (d.norm() + 1e-6)).clamp(max=1))
        self.steps += 1
        self.mean.lerp_(d, 0.1)
        self.mean_square.mul_(0.999).addcmul_(d, d, value=0.001)
        root = (self.mean_square / (1 - 0.999**self.steps)).sqrt_().add_(self.config.adam_epsilon)
        self.weights.sub_(root.reciprocal_().mul_(self.mean).mul_(learning_rate / (1 - 0.9**self.steps)))

    def state_dict(self) -> dict:
        return {"mean": self.mean, "mean_square": self.mean_square, "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.mean.copy_(torch.as_tensor(state["mean"]))
        self.mean_square.copy_(torch.as_tensor(state["mean_square"]))
        self.steps.copy_(torch.as_tensor(state["steps"]))


def update(
    net: nn.Module,
    optimiser: Adam,
    config: Config,
    rates: torch.Tensor,
    old_log_std: torch.Tensor | None,
    *batch,
) -> torch.Tensor:
    """One gradient step on a minibatch; returns what `ppo_loss` shows, (6,). rates (3,): learning rate, clip, beta."""
    learning_rate, clip, beta = rates
    loss, shown = ppo_loss(net(batch[0]), Minibatch(*batch), old_log_std, clip, beta, config)
    optimiser.gradient.zero_()
    loss.backward()
    optimiser.step(learning_rate)
    return shown


# --- training: Algorithm 1 ---


@dataclass
class Progress(counting.Progress):
    kl_coefficient: float = 1.0  # beta, where the objective has it


def sample(heads: Heads, rngs: list[np.random.Generator]) -> np.ndarray:
    """One action per state, (N,) int64 or (N, A) float32; rngs: one generator per state, or one for all."""
    outputs = heads.outputs.cpu().numpy()
    if heads.log_std is not None:
        noise = np.concatenate(
            [rng.standard_normal((len(outputs) // len(rngs), outputs.shape[1])) for rng in rngs]
        )
        return (outputs + np.exp(heads.log_std.cpu().numpy()) * noise).astype(np.float32)
    probabilities = np.exp(outputs - outputs.max(axis=1, keepdims=True), dtype=np.float64)
    sums = probabilities.cumsum(axis=1)
    drawn = np.concatenate([rng.random(len(outputs) // len(rngs)) for rng in rngs])
    return (sums <= drawn[:, None] * sums[:, -1:]).sum(axis=1)


def train(config: Config, run: Run) -> None:
    c, rng = config, np.random.default_rng(run.seed)
    size = c.rollout_steps * c.num_envs
    if size % c.minibatch_size:
        raise UserError(
            f"minibatch_size {c.minibatch_size} does not divide the {size} agent steps of an iteration "
            f"(num_envs {c.num_envs} x rollout_steps {c.rollout_steps}); choose one that does"
        )
    envs = make_envs(c, run.task, c.num_envs, run.seed)
    net = make_network(c, envs).to(run.device)
    optimiser = Adam(net, c)
    stack = FrameStack(c.num_envs, c.stack, envs.obs_shape, envs.obs_dtype)
    observed, returned = RunningMoments(envs.obs_shape), RunningMoments(())
    discounted = torch.zeros(
        c.num_envs, dtype=torch.float64
    )  # return so far, of which rewards are normalised by
    metrics = torch.zeros(6, device=run.device)  # sums of loss and CURVE since the last row of the curve
    progress = Progress(kl_coefficient=c.kl_coefficient)
    resumed = run.resume(
        progress, rng=rng, envs=envs, net=net, optimiser=optimiser, stack=stack, observed=observed, returned=returned,
        discounted=discounted, metrics=metrics,
    )  # fmt: skip
    if not resumed:
        stack.begin_episodes(envs.reset(), np.ones(c.num_envs, dtype=bool))

    graphs = c.cuda_graph and run.device.type == "cuda"
    heads_of, gradient_step = (
        CudaGraphed(net, graphs),
        CudaGraphed(partial(update, net, optimiser, c), graphs),
    )
    steps = c.rollout_steps, c.num_envs
    for _ in run.steps(progress):
        alpha = annealing(progress.agent_steps, c)
        learning_rate = c.learning_rate * (alpha if c.anneal_learning_rate else 1.0)
        clip = c.clip * (alpha if c.anneal_clip else 1.0)
        began = progress.agent_steps

        # for actor = 1, ..., N: run policy pi_old for T timesteps
        states, actions, log_probs, outputs = [], [], [], []
        rewards, values, cut_values = np.zeros(steps), np.zeros(steps), np.zeros(steps)
        terminals, ends = np.zeros(steps, dtype=bool), np.zeros(steps, dtype=bool)
        for t in range(c.rollout_steps):
            if c.normalise:
                observed.update(stack.planes[:, -1])
                net.mean.copy_(torch.from_numpy(observed.mean)), net.std.copy_(torch.from_numpy(observed.std))
            with torch.no_grad():
                states.append(prepare(net, stack.planes.copy()))
                heads = heads_of(states[-1])
                chosen = sample(heads, [rng])
                actions.append(torch.from_numpy(chosen).to(run.device))
                log_probs.append(log_probs_and_entropy(heads, actions[-1])[0])
            outputs.append(heads.outputs.clone())
            values[t] = heads.values.cpu().numpy()
            step = envs.step(chosen)
            progress.advance(c.num_envs)
            terminals[t] = step.game_over | (step.life_lost & c.life_loss_terminal)
            ends[t] = terminals[t] | step.truncated
            rewards[t] = step.rewards.clip(-c.reward_clip, c.reward_clip) if c.reward_clip else step.rewards
            if c.normalise:  # by the standard deviation of the discounted return, as the released code
                discounted.mul_(c.discount).add_(torch.from_numpy(rewards[t]))
                returned.update(discounted.numpy())
                rewards[t] = (rewards[t] / returned.std).clip(-10, 10)
                discounted[torch.from_numpy(step.done)] = 0
            stack.push(step.obs)
            if (step.truncated & ~terminals[t]).any():
                cut_values[t] = value(net, stack.planes)
            if step.done.any():
                run.log_episodes(progress, step)
                stack.begin_episodes(envs.reset_where(step.done), step.done)

        # compute advantage estimates A_1, ..., A_T
        advantages = gae(
            rewards, values, value(net, stack.planes), terminals, ends, cut_values, c.discount, c.gae_lambda
        )
        rollout = Minibatch(
            states=torch.cat(states), actions=torch.cat(actions), log_probs=torch.cat(log_probs), outputs=torch.cat(outputs),
            advantages=as_floats(advantages, run.device), returns=as_floats(advantages + values, run.device),
            values=as_floats(values, run.device),
        )  # fmt: skip
        if c.normalise_advantages == "batch":
            rollout = rollout._replace(advantages=standardised(rollout.advantages))

        # optimise surrogate L with respect to theta, with K epochs and minibatch size M <= NT; then theta_old <- theta
        old_log_std = None if heads.log_std is None else heads.log_std.detach().clone()
        rates = torch.tensor([learning_rate, clip, progress.kl_coefficient], device=run.device)
        for _ in range(c.epochs):
            for part in torch.from_numpy(rng.permutation(size)).to(run.device).split(c.minibatch_size):
                metrics += gradient_step(rates, old_log_std, *(tensor[part] for tensor in rollout))
                progress.updates += 1
        run.check_finite(metrics, progress)
        if c.objective == "adaptive_kl":
            with torch.no_grad():
                old = Heads(rollout.outputs, rollout.values, old_log_std)
                progress.kl_coefficient *= penalty_change(
                    float(divergence(old, net(rollout.states)).mean()), c.kl_target
                )
        if times_due(c.log_period, began, progress.agent_steps) or progress.agent_steps >= c.training_steps:
            means = (metrics / (progress.updates - progress.updates_logged)).tolist()
            run.log_phase(
                progress, None, learning_rate=learning_rate, **dict(zip(("loss", *CURVE), means, strict=True))
            )
            metrics.zero_()
            progress.updates_logged = progress.updates

    run.finish(progress, net)


def penalty_change(kl: float, target: float) -> float:
    """Section 4: the penalty's coefficient is halved below target / 1.5 and doubled above target x 1.5."""
    return 0.5 if kl < target / 1.5 else 2.0 if kl > target * 1.5 else 1.0


@torch.no_grad()
def value(net: nn.Module, planes: np.ndarray) -> np.ndarray:
    """V of stacked observations (N, stack, *obs_shape) -> (N,) float32."""
    return net(prepare(net, planes)).values.cpu().numpy()


def as_floats(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """(T, N) -> (T N,) float32."""
    return torch.from_numpy(array.astype(np.float32).reshape(-1)).to(device)


# --- evaluation and command line ---


def make_policy(net: nn.Module, config: Config) -> Policy:
    """What is evaluated: it samples its actions."""

    @torch.no_grad()
    def policy(states: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        return sample(net(prepare(net, states)), rngs)

    return policy


if __name__ == "__main__":
    main("ppo", Config, train)
