"""Deep Q-Network (2013): Mnih et al., "Playing Atari with Deep Reinforcement Learning", NIPS Workshop 2013.

This is DQN (2015) with: a smaller network; no target network, so that targets come from the network that
learns; the squared error, not clipped; one update every agent step; plain RMSProp; screens without the
maximum over two frames, cropped; rewards reduced to their sign; games started without no-ops and played on
after a lost life; the last network, not the best one.

`paper.yaml` beside this file lists every constant with its source, and every point where this script differs
from the paper. Four things are not in this file: the screens (common/environments/atari.py), the replay
memory (common/learning/replay.py), the evaluation (common/evaluation/protocol.py), and a run's folder,
checkpoints and logs (common/runs/run.py).

Units: an agent step is one decision, usually 4 emulator frames; an update is one step of the optimiser.
Loops count agent steps.

    ./run python -m replications.dqn_2013.train --task pong --seed 1 --budget hour
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.environments.make import make_envs
from common.evaluation.policies import greedy, mean_max_q
from common.evaluation.protocol import Policy
from common.learning.batch import Batch
from common.learning.fast import on_batches, overlapped
from common.learning.layers import MLP, fast_layers, flatten_parameters
from common.learning.replay import Replay
from common.runs.command_line import main
from common.runs.progress import Progress
from common.runs.run import Run

# --- constants ---


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's, section 5; what it does not say is filled in, and listed in paper.yaml."""

    training_steps: int = 10_000_000  # agent steps ("frames")
    num_envs: int = 1  # environments stepped together; the paper has one
    frame_skip: int = 4  # frames per agent step; 3 on Space Invaders
    stack: int = 4  # frames; section 4.1
    noop_max: int = 0  # not mentioned
    time_limit: Literal["xitari", "none"] = "xitari"  # then game over; not given
    preprocessing: Literal["dqn_2013", "nature", "ale"] = "dqn_2013"  # section 4.1

    network: Literal["dqn_2013", "mlp"] = "dqn_2013"  # section 4.1; "mlp" is for vector observations
    replay_capacity: int = 1_000_000  # slots (agent steps)
    replay_start: int = 50_000  # agent steps; not given
    batch_size: int = 32  # transitions
    update_period: int = 1  # agent steps per update; Algorithm 1
    discount: float = 0.95  # not given

    learning_rate: float = 0.0002  # for gradients averaged over the minibatch; not given
    squared_gradient_momentum: float = 0.99  # not given
    min_squared_gradient: float = 1e-6  # inside the root; not given

    initial_exploration: float = 1.0  # epsilon
    final_exploration: float = 0.1  # epsilon
    final_exploration_step: int = 1_000_000  # agent steps ("frames") after the replay start

    evaluation_period: int = 50_000  # agent steps between evaluation phases; Figure 2, an epoch
    evaluation_steps: int = 10_000  # agent steps of a phase; Figure 2
    evaluation_epsilon: float = 0.05  # Figure 2
    held_out_states: int = 500  # states whose mean max Q is traced; number not given

    learn_while_stepping: bool = False  # updates while the emulators step; the paper's come after
    cuda_graph: bool = False  # on a GPU, an update is launched as one graph: the same numbers


# --- network ---


class Network2013(nn.Module):
    """Section 4.1: 16 8x8 stride 4, 32 4x4 stride 2, 256 units.

    PyTorch's default initialisation is DQN's released code's: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), biases too;
    the paper gives none.
    """

    def __init__(self, num_actions: int, stack: int = 4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(stack, 16, 8, stride=4), nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2592, 256), nn.ReLU(),
            nn.Linear(256, num_actions),
        )  # fmt: skip

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """states: (B, stack, 84, 84) uint8 -> action values (B, num_actions) float32."""
        return self.layers(states / 255)


def make_network(config: Config, envs) -> nn.Module:
    """The network for these environments' observations and actions."""
    if config.network == "mlp":
        q = MLP(envs.num_actions, config.stack * int(np.prod(envs.obs_shape)))
    else:
        q = Network2013(envs.num_actions, config.stack)
    return fast_layers(q)  # the same network, computed faster


# --- learning rule ---


def exploration(step: int, config: Config) -> float:
    """epsilon at an agent step: its initial value until the replay start, then linear to its final value."""
    progress = min(max(step - config.replay_start, 0) / config.final_exploration_step, 1.0)
    return config.initial_exploration + progress * (config.final_exploration - config.initial_exploration)


def q_targets(
    rewards: torch.Tensor, q: torch.Tensor, terminals: torch.Tensor, discount: float
) -> torch.Tensor:
    """Algorithm 1: y = r, or r + discount max_a' Q(s', a'; theta) where the episode goes on.

    rewards (B,) float32, values of s' (B, A), terminals (B,) bool -> (B,) float32.
    """
    return rewards + discount * q.amax(dim=1) * ~terminals


def q_loss(values: torch.Tensor, actions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Equation 3: the gradient is the mean over the minibatch of -(y - Q(s, a)) dQ(s, a).

    values (B, A), actions (B,) int64, targets (B,) -> scalar. The error is not clipped.
    """
    chosen = values.gather(1, actions.unsqueeze(1)).squeeze(1)
    return 0.5 * F.mse_loss(chosen, targets)


class RMSProp:
    """Plain RMSProp, epsilon inside the root. With d the gradient,

    s <- .99 s + .01 d^2;  w <- w - learning_rate d / sqrt(s + 1e-6).
    """

    def __init__(self, module: nn.Module, config: Config):
        self.weights, self.gradient = flatten_parameters(module)
        self.mean_square = torch.zeros_like(self.weights)
        self.config = config

    @torch.no_grad()
    def step(self) -> None:
        c, d, s = self.config, self.gradient, self.mean_square
        s.mul_(c.squared_gradient_momentum).addcmul_(d, d, value=1 - c.squared_gradient_momentum)
        self.weights.addcdiv_(d, (s + c.min_squared_gradient).sqrt_(), value=-c.learning_rate)

    def state_dict(self) -> dict:
        return {"mean_square": self.mean_square}

    def load_state_dict(self, state: dict) -> None:
        self.mean_square.copy_(torch.as_tensor(state["mean_square"]))


def update(q: nn.Module, optimiser: RMSProp, batch: Batch, config: Config) -> torch.Tensor:
    """One gradient step; returns the mean loss, a scalar tensor on the learner's device."""
    with torch.no_grad():
        targets = q_targets(batch.rewards, q(batch.next_states), batch.terminals, config.discount)
    loss = q_loss(q(batch.states), batch.actions, targets)
    optimiser.gradient.zero_()
    loss.backward()
    optimiser.step()
    return loss.detach()


# --- training: Algorithm 1 ---


@torch.no_grad()
def act(
    q: nn.Module, states: torch.Tensor, epsilon: float, rng: np.random.Generator, num_actions: int
) -> np.ndarray:
    """With probability epsilon a random action, otherwise argmax_a Q(s, a). (N, stack, ...) -> (N,) int64."""
    explore = rng.random(len(states)) < epsilon
    actions = rng.integers(num_actions, size=len(states))
    if not explore.all():
        actions = np.where(explore, actions, q(states).argmax(dim=1).cpu().numpy())
    return actions


def train(config: Config, run: Run) -> None:
    """The whole training: Algorithm 1 and evaluation phases."""
    c, rng = config, np.random.default_rng(run.seed)
    envs = make_envs(c, run.task, c.num_envs, run.seed)
    # Initialise replay memory D and action-value function Q
    replay = Replay(
        c.replay_capacity, envs.obs_shape, envs.obs_dtype, num_envs=c.num_envs, stack=c.stack,
        **run.frame_storage(envs, c.replay_capacity),
    )  # fmt: skip
    q = make_network(c, envs).to(run.device)
    optimiser = RMSProp(q, c)
    held_out = replay.blank_states(c.held_out_states)
    loss_sum = torch.zeros((), device=run.device)  # since the last evaluation phase
    progress = Progress()
    resumed = run.resume(
        progress, rng=rng, envs=envs, replay=replay, q=q, optimiser=optimiser, held_out=held_out,
        loss_sum=loss_sum,
    )  # fmt: skip
    if not resumed:
        replay.begin_episodes(envs.reset())
    gradient_step = on_batches(lambda batch: update(q, optimiser, batch, c), replay, c.cuda_graph)

    def learn() -> None:
        if progress.agent_steps <= c.replay_start:
            return
        for _ in range(progress.times_due(c.update_period)):
            # Sample a random minibatch from D; gradient step on (y - Q(s, a; theta))^2
            indices = replay.draw(rng, c.batch_size)
            loss_sum.add_(gradient_step(indices))
            progress.updates += 1
        run.check_finite(loss_sum, progress)

    if c.learn_while_stepping:  # variant `fast`
        envs, learn = overlapped(envs, learn)

    for _ in run.steps(progress):
        # With probability epsilon select a random action a_t, otherwise a_t = argmax_a Q(s_t, a)
        epsilon = exploration(progress.agent_steps, c)
        actions = act(q, replay.current(), epsilon, rng, envs.num_actions)
        # Execute a_t; observe reward r_t and the next image; store the transition in D
        progress.advance(c.num_envs)
        step = envs.step(actions)
        replay.add(actions, np.sign(step.rewards), step.game_over, step.obs)
        if step.done.any():
            run.log_episodes(progress, step)
            replay.begin_episodes(envs.reset_where(step.done), step.done)
        if progress.passed(c.replay_start):
            held_out.copy_(replay.sample(rng, c.held_out_states).states)

        learn()

        if progress.times_due(c.evaluation_period):
            run.evaluation_phase(
                progress, greedy(q), q, None, loss_sum,
                epsilon=exploration(progress.agent_steps, c), learning_rate=c.learning_rate,
                mean_max_q=mean_max_q(q, held_out),
            )  # fmt: skip

    run.finish(progress, q, replay)  # the last network


# --- evaluation and command line ---


def make_policy(q: nn.Module, config: Config) -> Policy:
    """What is evaluated: argmax_a Q(s, a). The protocol adds its epsilon."""
    return greedy(q)


if __name__ == "__main__":
    main("dqn_2013", Config, train)
