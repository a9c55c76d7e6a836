"""Deep Deterministic Policy Gradient (2016): Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR.

This is Q-learning for actions that are vectors of floats: an actor mu(s) stands in the place of the maximum over actions, and
climbs the critic Q(s, a). From DQN it has the replay memory and a target network, which follows softly; new are batch
normalisation, so that one set of constants fits all tasks, and exploration by noise that is correlated in time.

`paper.yaml` beside this file lists every constant with its source, and every point where this script differs from the paper.
Elsewhere: acting, and Adam of one vector (plumbing.py), environments (common/environments/vector.py), the replay memory
(common/learning/replay.py), the evaluation (common/evaluation/protocol.py), a run's folder and checkpoints (common/runs/run.py).

Units: an update is one step of both optimisers. Loops count agent steps, which are steps of the environment. Actions in here lie
in [-1, 1]; the environment gets them scaled to its own bounds.

    ./run python -m replications.ddpg.train --task pendulum --seed 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.environments.make import make_envs
from common.evaluation.protocol import Policy
from common.learning.batch import Batch
from common.learning.layers import flatten_parameters
from common.learning.replay import Replay
from common.runs.command_line import main
from common.runs.progress import Progress
from common.runs.run import Run
from replications.ddpg.plumbing import adam, deterministic


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's for low-dimensional observations; sections and algorithm are of Lillicrap et al. (2016)."""

    training_steps: int = 2_500_000  # agent steps, at most; Section 4
    num_envs: int = 1  # environments stepped together; Algorithm 1
    stack: int = 1  # observations in a state; Section 2, fully observed
    replay_capacity: int = 1_000_000  # slots (agent steps); Section 7 "replay buffer size"
    replay_start: int = 64  # agent steps before the first update; not stated: a minibatch can be filled
    batch_size: int = 64  # transitions; Section 7
    discount: float = 0.99  # per agent step; Section 7
    target_network: bool = True  # Figure 2 switches it off
    target_rate: float = 0.001  # tau, per update; Section 7

    batch_norm: bool = True  # Figure 2 switches it off
    final_layer_bound: float = 0.003  # of uniform initial weights and biases; Section 7
    actor_learning_rate: float = 0.0001  # Adam; Section 7
    critic_learning_rate: float = 0.001  # Adam; Section 7
    weight_decay: float = 0.01  # L2, of the critic alone, added to its gradient; Section 7

    noise_theta: float = 0.15  # how fast the noise returns to 0; Section 7
    noise_sigma: float = 0.2  # of half an action's range; Section 7
    noise_step: float = 1.0  # the time that an agent step takes, dt; not stated
    evaluation_period: int = 5_000  # agent steps between evaluation phases; not stated
    evaluation_steps: int = 10_000  # agent steps of a phase; not stated
    evaluation_epsilon: float = 0.0  # no noise; Section 4


CURVE = ("mean_q",)  # Q(s, mu(s)), the mean over the minibatches since the last evaluation phase


# --- networks ---


class Actor(nn.Module):
    """mu(s). Section 7: 400 and 300 units, tanh; batch normalisation of the state and all layers but the output (Section 3)."""

    def __init__(self, inputs: int, low: np.ndarray, high: np.ndarray, config: Config):
        super().__init__()
        norm = nn.BatchNorm1d if config.batch_norm else nn.Identity
        self.layers = nn.Sequential(
            nn.Flatten(), norm(inputs),
            nn.Linear(inputs, 400), norm(400), nn.ReLU(),
            nn.Linear(400, 300), norm(300), nn.ReLU(),
            nn.Linear(300, len(low)), nn.Tanh(),
        )  # fmt: skip
        self.register_buffer("centre", torch.from_numpy((high + low) / 2))  # of the environment's actions
        self.register_buffer("reach", torch.from_numpy((high - low) / 2))  # to both sides

    def forward(self, states: Tensor) -> Tensor:
        """(B, stack, *obs_shape) float32 -> (B, A) in [-1, 1]."""
        return self.layers(states)


class Critic(nn.Module):
    """Q(s, a). Section 7: 400 and 300 units; the action enters at the second layer; batch normalisation before it."""

    def __init__(self, inputs: int, num_actions: int, config: Config):
        super().__init__()
        norm = nn.BatchNorm1d if config.batch_norm else nn.Identity
        self.first = nn.Sequential(nn.Flatten(), norm(inputs), nn.Linear(inputs, 400), norm(400), nn.ReLU())
        self.second, self.value = nn.Linear(400 + num_actions, 300), nn.Linear(300, 1)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """(B, stack, *obs_shape) float32, (B, A) float32 in [-1, 1] -> (B,)."""
        hidden = F.relu(self.second(torch.cat([self.first(states), actions], 1)))
        return self.value(hidden).squeeze(1)


def make_network(config: Config, envs) -> nn.ModuleDict:
    """The actor and the critic for these environments' observations and actions: what is trained, and what the targets are of.

    PyTorch's initialisation is the paper's, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), but for the last layers (Section 7).
    """
    inputs = config.stack * int(np.prod(envs.obs_shape))
    actor = Actor(inputs, *envs.action_bounds, config)
    critic = Critic(inputs, envs.num_actions, config)
    for parameter in [*actor.layers[-2].parameters(), *critic.value.parameters()]:
        nn.init.uniform_(parameter, -config.final_layer_bound, config.final_layer_bound)
    return nn.ModuleDict({"actor": actor, "critic": critic})


# --- learning rule ---


def q_targets(rewards: Tensor, next_values: Tensor, terminals: Tensor, discount: float) -> Tensor:
    """Equation 5: y = r, or r + discount Q'(s', mu'(s')) where the episode goes on. All (B,)."""
    return rewards + discount * next_values * ~terminals


def policy_gradient(actor: Actor, critic: Critic, states: Tensor) -> Tensor:
    """Equation 6: adds the gradient of -Q(s, mu(s)) to the actor's, and nothing to the critic's; returns the mean Q, a scalar."""
    value = critic(states, actor(states)).mean()
    (-value).backward(inputs=list(actor.parameters()))
    return value.detach()


@torch.no_grad()
def soft_update(targets: list[Tensor], sources: list[Tensor], rate: float) -> None:
    """theta' <- tau theta + (1 - tau) theta'."""
    for target, source in zip(targets, sources, strict=True):
        target.lerp_(source, rate)


def noise_after(noise: Tensor, rng: np.random.Generator, config: Config) -> Tensor:
    """The Ornstein-Uhlenbeck process, one step on: x + theta (0 - x) dt + sigma sqrt(dt) N(0, 1); (N, A) float64."""
    c, drawn = config, torch.from_numpy(rng.standard_normal(noise.shape))
    return noise - c.noise_theta * c.noise_step * noise + c.noise_sigma * math.sqrt(c.noise_step) * drawn


def by_minibatch(net: nn.Module, remembered: bool) -> None:
    """Batch normalisation by a minibatch's moments from now on; whether the running ones take their share of them."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.train()
            layer.track_running_stats = remembered


def update(
    nets: nn.ModuleDict, bootstrap: nn.ModuleDict, optimisers: dict[str, torch.optim.Adam], batch: Batch, config: Config
) -> Tensor:  # fmt: skip
    """One step of critic and actor; returns the critic's loss and the mean of Q(s, mu(s)), (2,)."""
    # Running moments are for acting (Section 3); those of the networks that learn take their share once, from the states
    by_minibatch(bootstrap, remembered=False)
    with torch.no_grad():
        next_values = bootstrap.critic(batch.next_states, bootstrap.actor(batch.next_states))
        targets = q_targets(batch.rewards, next_values, batch.terminals, config.discount)
    by_minibatch(nets, remembered=True)
    loss = F.mse_loss(nets.critic(batch.states, batch.actions), targets)  # Equation 4
    optimisers["critic"].zero_grad(set_to_none=False)
    loss.backward()
    optimisers["critic"].step()

    by_minibatch(nets.critic, remembered=False)
    optimisers["actor"].zero_grad(set_to_none=False)
    value = policy_gradient(nets.actor, nets.critic, batch.states)
    optimisers["actor"].step()
    return torch.stack([loss.detach(), value])


# --- training: Algorithm 1 ---


def train(config: Config, run: Run) -> None:
    """The whole training: Algorithm 1, evaluation phases, and the networks that are kept."""
    torch.set_flush_denormal(True)  # decay draws weights to 0, and a CPU is many times slower just above it
    c, rng = config, np.random.default_rng(run.seed)
    envs = make_envs(c, run.task, c.num_envs, run.seed)
    # Randomly initialise critic Q and actor mu, target networks Q' and mu' with the same weights, and replay buffer R
    nets, targets, best = (make_network(c, envs).to(run.device) for _ in range(3))
    optimisers = {
        "actor": adam(nets.actor, c.actor_learning_rate),
        "critic": adam(nets.critic, c.critic_learning_rate, c.weight_decay),
    }
    targets.load_state_dict(nets.state_dict())
    followed = [o.param_groups[0]["params"][0] for o in optimisers.values()]
    following = [flatten_parameters(net)[0] for net in (targets.actor, targets.critic)]
    replay = Replay(
        c.replay_capacity, envs.obs_shape, envs.obs_dtype, num_envs=c.num_envs, stack=c.stack,
        action_shape=envs.action_shape, **run.frame_storage(envs, c.replay_capacity),
    )  # fmt: skip
    noise = torch.zeros((c.num_envs, envs.num_actions), dtype=torch.float64)
    sums = torch.zeros(2, device=run.device)  # of what updates returned, since the last evaluation phase
    progress = Progress()
    if not run.resume(
        progress, rng=rng, envs=envs, replay=replay, nets=nets, targets=targets, best=best, noise=noise, metrics=sums, **optimisers
    ):  # fmt: skip
        replay.begin_episodes(envs.reset())
    mu, in_bounds = deterministic(nets.actor)

    for _ in run.steps(progress):
        # Select action a_t = mu(s_t) + N_t according to the current policy and exploration noise (Equation 7)
        noise.copy_(noise_after(noise, rng, c))
        actions = (mu(replay.current().cpu().numpy()) + noise.numpy()).clip(-1, 1)
        # Execute a_t; observe reward r_t and new state s_{t+1}; store the transition in R
        progress.advance(c.num_envs)
        step = envs.step(in_bounds(actions))
        replay.add(actions, step.rewards, step.game_over, step.obs)
        if step.done.any():
            run.log_episodes(progress, step)
            replay.begin_episodes(envs.reset_where(step.done), step.done)
            noise[step.done] = 0

        if progress.agent_steps >= c.replay_start:
            for _ in range(c.num_envs):
                # Sample a random minibatch from R; update critic and actor
                batch = replay.sample(rng, c.batch_size)
                sums += update(nets, targets if c.target_network else nets, optimisers, batch, c)
                # Update the target networks
                soft_update(following, followed, c.target_rate)
                progress.updates += 1
            run.check_finite(sums, progress)

        if progress.times_due(c.evaluation_period):
            mean_q = float(sums[1]) / max(progress.updates - progress.updates_logged, 1)
            kept = best if run.task.protocol.weights == "best" else None
            run.evaluation_phase(progress, make_policy(nets, c), nets, kept, sums[0], mean_q=mean_q)
            sums.zero_()

    run.finish(progress, best if progress.best_score is not None else nets, replay)


# --- evaluation and command line ---


def make_policy(nets: nn.ModuleDict, config: Config) -> Policy:
    """What is evaluated: mu(s), without noise."""
    mu, in_bounds = deterministic(nets.actor)
    return lambda states, rngs: in_bounds(mu(states))


if __name__ == "__main__":
    main("ddpg", Config, train)
