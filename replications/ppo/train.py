"""Proximal Policy Optimisation (2017): Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347.

This is an actor-critic with: several actors that play a fixed number of steps with one policy; advantages by generalised
advantage estimation; several epochs of minibatch updates on those steps, held near the old policy by clipping the ratio of new
to old probabilities (or by a penalty on the divergence). There is no replay memory and no target network.
`paper.yaml` beside this file lists every constant with its source, and every point where this script differs from the paper.

Beside this file: how the actors play (rollout.py), distributions of actions (policies.py), networks and moments of control
tasks (control.py). Elsewhere: screens (common/environments/atari.py), evaluation (common/evaluation/protocol.py), a run's
folder, checkpoints and logs (common/runs/run.py).

Units: an agent step is one decision, usually 4 emulator frames; an iteration is one rollout of all actors with its updates; an
update is one step of the optimiser. Loops count agent steps.

    ./run python -m replications.ppo.train --task pong --seed 1 --budget hour
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.environments.make import make_envs
from common.errors import UserError
from common.evaluation.protocol import Policy
from common.learning.cuda_graphs import CudaGraphed
from common.learning.layers import fast_layers, flatten_parameters
from common.runs import progress as counting
from common.runs.command_line import main
from common.runs.progress import times_due
from common.runs.run import Run
from replications.ppo.control import ControlNetwork, initialise
from replications.ppo.policies import Heads, divergence, draw, log_probs_and_entropy, sample
from replications.ppo.rollout import Actors, Rollout, evaluated

# --- constants ---


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's for Atari (its Table 5); where the paper is silent, those of the code of its date, and so said."""

    training_steps: int = 10_000_000  # agent steps of all actors together (40M frames); Table 6
    num_envs: int = 8  # actors, stepped together; Table 5 "number of actors"
    frame_skip: int = 4  # frames per agent step; released code
    stack: int = 4  # frames; released code
    noop_max: int = 30  # frames; released code
    fire_reset: bool = True  # in games that have it; released code
    repeat_first_frame: bool = True  # in the stack at a game's start; released code
    max_frames: int = 400_000  # of a game in training; gym's, which the released code plays with
    preprocessing: Literal["nature", "ale"] = "nature"  # released code; "ale" is faster
    life_loss_terminal: bool = True  # released code
    reward_clip: float = 1.0  # raw score, 0: no clipping; released code
    clip_actions: bool = False  # to the environment's bounds, before it sees them; ppo2
    observation_filter: Literal["none", "iteration", "step"] = "none"  # how often moments move; MuJoCo
    observation_clip: float = 5.0  # standard deviations, where there is a filter; released code
    normalise_rewards: bool = False  # by the moments of returns; ppo2 on MuJoCo

    network: Literal["small", "nature", "mlp"] = "small"  # as in Mni+16: Section 6.4; "mlp" for vectors: 6.1
    initial_weights: Literal["normc", "orthogonal"] = "normc"  # released code; ppo2 has orthogonal ones
    rollout_steps: int = 128  # agent steps per actor and iteration; Table 5 "horizon (T)"
    epochs: int = 3  # over the steps of an iteration; Table 5 "num. epochs"
    minibatch_size: int = 256  # agent steps; Table 5, 32 x 8
    discount: float = 0.99  # Table 5
    gae_lambda: float = 0.95  # Table 5 "GAE parameter"

    objective: Literal["clip", "none", "adaptive_kl", "fixed_kl"] = "clip"  # Equations 7, 6, 8 and 8
    clip: float = 0.1  # on the ratio's distance from 1; Table 5, times alpha
    anneal_clip: bool = True  # alpha falls linearly from 1 to 0 over training; Table 5
    kl_target: float = 0.01  # nats; Table 1, for adaptive_kl
    kl_coefficient: float = 1.0  # beta, at the start for adaptive_kl; Table 1
    value_coefficient: float = 1.0  # of the squared error; Table 5 "VF coeff."
    value_clip: bool = False  # ppo2
    entropy_coefficient: float = 0.01  # Table 5
    normalise_advantages: Literal["no", "batch", "minibatch"] = "batch"  # over what; released code

    learning_rate: float = 0.00025  # Adam; Table 5, times alpha
    anneal_learning_rate: bool = True  # Table 5
    adam_epsilon: float = 1e-8  # released code
    gradient_norm_clip: float = 0.0  # global norm, 0: none; ppo2

    log_period: int = 20_000  # agent steps between rows of the learning curve; ours
    cuda_graph: bool = (
        False  # on a GPU, acting and an update are launched as one graph each: the same numbers
    )


CURVE = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


# --- networks ---


class ScreenNetwork(nn.Module):
    """A shared torso with a policy and a value head. "small": 16 8x8 stride 4, 32 4x4 stride 2, 256 units (Mnih et al. 2013, and
    2016, Section 8); "nature": 32 8x8 stride 4, 64 4x4 stride 2, 64 3x3 stride 1, 512 units (Mnih et al. 2015)."""

    def __init__(self, num_actions: int, stack: int, kind: str):
        super().__init__()
        if kind == "small":
            convolutions = [nn.Conv2d(stack, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2)]
            flat, units = 2592, 256
        else:
            convolutions = [
                nn.Conv2d(stack, 32, 8, stride=4), nn.ReLU(),
                nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
                nn.Conv2d(64, 64, 3),
            ]  # fmt: skip
            flat, units = 3136, 512
        self.torso = nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(flat, units), nn.ReLU())
        self.policy, self.value = nn.Linear(units, num_actions), nn.Linear(units, 1)

    def forward(self, states: torch.Tensor) -> Heads:
        """states: (B, stack, 84, 84) uint8."""
        features = self.torso(states / 255)
        return Heads(self.policy(features), self.value(features).squeeze(1))


def make_network(config: Config, envs) -> nn.Module:
    """The network for these environments' observations and actions."""
    if config.network == "mlp":
        inputs = config.stack * int(np.prod(envs.obs_shape))
        bound = config.observation_clip if config.observation_filter != "none" else 0.0
        net = ControlNetwork(envs.num_actions, inputs, bool(envs.action_shape), bound)
    else:
        net = ScreenNetwork(envs.num_actions, config.stack, config.network)
    initialise(net, config.initial_weights)
    return fast_layers(net)  # the same network, computed faster


# --- learning rule ---


def annealing(step: int, config: Config) -> float:
    """alpha: 1 at the start, 0 at the end of training; one value per iteration."""
    return 1 - step / config.training_steps


def gae(rewards: np.ndarray, values: np.ndarray, ends: np.ndarray, discount: float, lam: float) -> np.ndarray:
    """Equations 11 and 12: A_t = delta_t + discount lam A_{t+1}, delta_t = r_t + discount V(s_{t+1}) - V(s_t); (T, N).

    values: (T + 1, N), the last row those of what follows the last step. ends: (T, N), the episode was over with step t, and
    nothing that follows counts; a time limit is an end too (released code).
    """
    deltas = rewards + discount * values[1:] * ~ends - values[:-1]
    decay, advantages, advantage = discount * lam * ~ends, np.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        advantages[t] = advantage = deltas[t] + decay[t] * advantage
    return advantages


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
    heads: Heads, batch: Minibatch, old_log_std: torch.Tensor | None, clip: float, beta: float, config: Config
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Equation 9 negated, to be minimised; and of what it is made: policy loss, value loss, mean entropy, log ratios (B,).

    clip and beta: numbers, or scalar tensors in a CUDA graph.
    """
    c, advantages = config, batch.advantages
    if c.normalise_advantages == "minibatch":
        advantages = standardised(advantages)
    log_probs, entropy = log_probs_and_entropy(heads, batch.actions)
    log_ratios = log_probs - batch.log_probs
    policy_loss = -surrogate(log_ratios.exp(), advantages, c.objective, clip).mean()
    if c.objective in ("adaptive_kl", "fixed_kl"):
        old = Heads(batch.outputs, batch.values, old_log_std)
        policy_loss = policy_loss + beta * divergence(old, heads).mean()
    value_loss = F.mse_loss(heads.values, batch.returns)
    if c.value_clip:  # ppo2
        near = batch.values + (heads.values - batch.values).clamp(-clip, clip)
        errors = (heads.values - batch.returns) ** 2, (near - batch.returns) ** 2
        value_loss = torch.max(*errors).mean()
    loss = policy_loss + c.value_coefficient * value_loss
    if c.entropy_coefficient:
        loss = loss - c.entropy_coefficient * entropy
    return loss, policy_loss, value_loss, entropy, log_ratios


@torch.no_grad()
def metrics_of(loss, policy_loss, value_loss, entropy, log_ratios, clip: float) -> torch.Tensor:
    """What the learning curve shows of an update, (6,), in the order loss, *CURVE."""
    ratios = log_ratios.exp()
    kl = (ratios - 1 - log_ratios).mean()  # an estimate of KL(old || new) that is never negative
    clipped = ((ratios - 1).abs() > clip).float().mean()
    return torch.stack([loss, policy_loss, value_loss, entropy, kl, clipped])


def standardised(advantages: torch.Tensor) -> torch.Tensor:
    """Mean 0, standard deviation 1 of the population."""
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)


def adam(net: nn.Module, config: Config, graph: bool) -> torch.optim.Adam:
    """Adam of the network's weights as one vector, which takes half the time of a dozen tensors."""
    weights, gradient = flatten_parameters(net)
    vector = nn.Parameter(weights)
    vector.grad = gradient
    return torch.optim.Adam([vector], eps=config.adam_epsilon, fused=True, capturable=graph)


def update(
    net: nn.Module, optimiser: torch.optim.Adam, batch: Minibatch, old_log_std: torch.Tensor | None, rates, config: Config
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """One gradient step; returns what `ppo_loss` does. rates: learning rate, clip, beta."""
    learning_rate, clip, beta = rates
    loss, *parts = ppo_loss(net(batch.states), batch, old_log_std, clip, beta, config)
    (group,) = optimiser.param_groups
    group["params"][0].grad.zero_()
    loss.backward()
    if config.gradient_norm_clip:
        nn.utils.clip_grad_norm_(group["params"], config.gradient_norm_clip)
    group["lr"] = learning_rate
    optimiser.step()
    return loss, *parts


def penalty_change(kl: float, target: float) -> float:
    """Section 4: beta is halved below target / 1.5 and doubled above target x 1.5."""
    return 0.5 if kl < target / 1.5 else 2.0 if kl > target * 1.5 else 1.0


def as_batch(
    rollout: Rollout, advantages: np.ndarray, old_log_std: torch.Tensor | None, device: torch.device, config: Config
) -> Minibatch:  # fmt: skip
    """All agent steps of an iteration, (T N, ...), on the network's device."""
    numbers = advantages, advantages + (values := rollout.values[:-1]), values
    advantages, returns, values = (
        torch.as_tensor(x, dtype=torch.float32, device=device).flatten() for x in numbers
    )
    seen = rollout.states, rollout.actions, rollout.outputs
    states, actions, outputs = (torch.as_tensor(x, device=device) for x in seen)
    log_probs, _ = log_probs_and_entropy(Heads(outputs, values, old_log_std), actions)
    if config.normalise_advantages == "batch":
        advantages = standardised(advantages)
    return Minibatch(states, actions, advantages, returns, log_probs, values, outputs)


# --- training: Algorithm 1 ---


@dataclass
class Progress(counting.Progress):
    beta: float = 1.0  # coefficient of the penalty, where the objective has one


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
    graphs = c.cuda_graph and run.device.type == "cuda"
    optimiser = adam(net, c, graphs)
    actors = Actors(c, envs, net, CudaGraphed(net, on=graphs))
    gradient_step = CudaGraphed(
        lambda rates, log_std, *batch: update(net, optimiser, Minibatch(*batch), log_std, rates, c), on=graphs
    )
    metrics = torch.zeros(6, device=run.device)  # sums over iterations since the last row of the curve
    progress = Progress(beta=c.kl_coefficient)
    resumed = run.resume(
        progress, rng=rng, envs=envs, net=net, optimiser=optimiser, actors=actors, metrics=metrics
    )
    if not resumed:
        actors.reset()

    for _ in run.steps(progress):
        began, alpha = progress.agent_steps, annealing(progress.agent_steps, c)
        learning_rate = c.learning_rate * (alpha if c.anneal_learning_rate else 1.0)
        clip = c.clip * (alpha if c.anneal_clip else 1.0)
        old_log_std = net.log_std.detach().clone() if envs.action_shape else None

        # for actor = 1, ..., N: run policy pi_old for T timesteps
        rollout = actors.play(rng, old_log_std, run, progress)
        # compute advantage estimates A_1, ..., A_T
        advantages = gae(rollout.rewards, rollout.values, rollout.ends, c.discount, c.gae_lambda)
        batch = as_batch(actors.filtered(rollout), advantages, old_log_std, run.device, c)

        # optimise surrogate L with respect to theta, with K epochs and minibatch size M <= NT; then theta_old <- theta
        rates = learning_rate, clip, progress.beta
        if graphs:
            rates = torch.tensor(rates, device=run.device)
        for _ in range(c.epochs):
            order = torch.from_numpy(rng.permutation(size)).to(run.device)
            for part in zip(*(rows[order].split(c.minibatch_size) for rows in batch), strict=True):
                parts = gradient_step(rates, old_log_std, *part)
                progress.updates += 1
        metrics += metrics_of(*parts, clip)  # of the last update
        run.check_finite(metrics, progress)
        if c.objective == "adaptive_kl":
            with torch.no_grad():
                old = Heads(batch.outputs, batch.values, old_log_std)
                kl = float(divergence(old, net(batch.states)).mean())
            progress.beta *= penalty_change(kl, c.kl_target)

        if times_due(c.log_period, began, progress.agent_steps) or progress.agent_steps >= c.training_steps:
            iterations = (progress.updates - progress.updates_logged) * c.minibatch_size / (c.epochs * size)
            means = dict(zip(("loss", *CURVE), (metrics / iterations).tolist(), strict=True))
            run.log_phase(progress, None, learning_rate=learning_rate, **means)
            metrics.zero_()
            progress.updates_logged = progress.updates

    run.finish(progress, net)


# --- evaluation and command line ---


def make_policy(net: nn.Module, config: Config) -> Policy:
    """What is evaluated: it samples its actions."""
    device, log_std = next(net.parameters()).device, getattr(net, "log_std", None)

    @torch.no_grad()
    def policy(planes: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        states = net.normalised(planes) if isinstance(net, ControlNetwork) else planes
        outputs, _ = evaluated(net, states, device)
        return sample(outputs, np.concatenate([draw(rng, (1,), log_std) for rng in rngs]))

    return policy


if __name__ == "__main__":
    main("ppo", Config, train)
