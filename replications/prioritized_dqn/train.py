"""Prioritized DQN (2016): Schaul, Quan, Antonoglou, Silver, "Prioritized Experience Replay", ICLR 2016.

This is tuned Double DQN (2016) with: transitions drawn in proportion to a power of their last error, not
uniformly; weights that correct the bias of it, more and more until the end of training; a quarter of the step
size. Variant `rank` draws by the rank of the error.

`paper.yaml` beside this file lists every constant with its source, and every point where this script differs
from the paper. Four things are not in this file: the screens (common/environments/atari.py), the replay
memory (common/learning/replay.py), the evaluation (common/evaluation/protocol.py), and a run's folder,
checkpoints and logs (common/runs/run.py).

Units: an agent step is one decision, usually 4 emulator frames; an update is one step of the optimiser.
Loops count agent steps.

    ./run python -m replications.prioritized_dqn.train --task pong --seed 1 --budget hour
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
from common.learning.fast import in_bfloat16, on_batches, overlapped
from common.learning.layers import MLP, fast_layers, flatten_parameters
from common.learning.priorities import Priorities
from common.learning.replay import Replay
from common.runs.command_line import main
from common.runs.progress import Progress
from common.runs.run import Run

# --- constants ---


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's; "Methods" and "EDT1" are DQN's, "DDQN" is van Hasselt et al. (2016)."""

    training_steps: int = 50_000_000  # agent steps (200M frames); Figure 7
    num_envs: int = 1  # environments stepped together; the paper has one
    frame_skip: int = 4  # frames per agent step; EDT1 "action repeat"
    stack: int = 4  # frames; EDT1 "agent history length"
    noop_max: int = 30  # frames; EDT1 "no-op max"
    time_limit: Literal["xitari", "none"] = "xitari"  # then game over; DQN's released code
    preprocessing: Literal["nature", "ale"] = "nature"  # Methods; "ale" is faster and not the paper's
    life_loss_terminal: bool = True  # Methods, "Training details"
    reward_clip: float = 1.0  # raw score; Methods, "Training details"

    network: Literal["nature", "mlp"] = "nature"  # Methods; "mlp" is for vector observations
    shared_bias: bool = True  # one bias for all outputs; DDQN, tuned
    replay_capacity: int = 1_000_000  # slots (agent steps); EDT1 "replay memory size"
    replay_start: int = 50_000  # agent steps; EDT1 "replay start size"
    batch_size: int = 32  # transitions; EDT1 "minibatch size"
    update_period: int = 4  # agent steps per update; EDT1 "update frequency"
    target_period: int = 30_000  # agent steps; DDQN, tuned
    discount: float = 0.99  # EDT1 "discount factor"
    error_clip: float = 1.0  # on the temporal-difference error; Methods, "Training algorithm"

    prioritisation: Literal["proportional", "rank"] = "proportional"  # Section 3.3
    priority_exponent: float = 0.6  # alpha; Table 3 ("rank": .7)
    priority_floor: float = 1e-6  # epsilon, added to |error|; Section 3.3 gives no number
    importance_exponent: float = 0.4  # beta at the start, 1 at the end of training; Table 3 ("rank": .5)

    learning_rate: float = 0.00025 / 4  # for gradients summed over the minibatch; Table 3
    gradient_momentum: float = 0.95  # decay of the mean gradient, no heavy ball; EDT1
    squared_gradient_momentum: float = 0.95  # EDT1
    min_squared_gradient: float = 0.01  # inside the root; EDT1

    initial_exploration: float = 1.0  # epsilon; EDT1
    final_exploration: float = 0.01  # epsilon; DDQN, tuned
    final_exploration_step: int = 1_000_000  # agent steps after the replay start; EDT1

    evaluation_period: int = 1_000_000  # agent steps between evaluation phases; DDQN, appendix
    evaluation_steps: int = 125_000  # agent steps of a phase (500,000 frames); Table 4
    evaluation_epsilon: float = 0.01  # Table 5
    held_out_states: int = 500  # states whose mean max Q is traced; DQN's released code "valid_size"

    learn_while_stepping: bool = False  # updates while the emulators step; the paper's come after
    bfloat16: bool = False  # the networks' products, where the processor has them; the paper's are float32
    cuda_graph: bool = False  # on a GPU, an update is launched as one graph: the same numbers


# max_a Q(s, a), the mean over a phase's steps (DDQN, Figure 3); the exponent of the weights
CURVE: tuple[str, ...] = ("value_estimate", "beta")


# --- network ---


class NatureNetwork(nn.Module):
    """Methods, "Model architecture": 32 8x8 stride 4, 64 4x4 stride 2, 64 3x3 stride 1, 512 units.

    PyTorch's default initialisation is the released code's: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), biases too.
    """

    def __init__(self, num_actions: int, stack: int = 4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(stack, 32, 8, stride=4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, 512), nn.ReLU(),
            nn.Linear(512, num_actions),
        )  # fmt: skip

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """states: (B, stack, 84, 84) uint8 -> action values (B, num_actions) float32."""
        return self.layers(states / 255)


def make_network(config: Config, envs) -> nn.Module:
    """The network for these environments' observations and actions."""
    if config.network == "mlp":
        q = MLP(envs.num_actions, config.stack * int(np.prod(envs.obs_shape)))
    else:
        q = NatureNetwork(envs.num_actions, config.stack)
    if config.shared_bias:
        q.layers[-1].bias = nn.Parameter(q.layers[-1].bias.detach()[:1].clone())
    return fast_layers(q)  # the same network, computed faster


# --- learning rule ---


def exploration(step: int, config: Config) -> float:
    """epsilon at an agent step: its initial value until the replay start, then linear to its final value."""
    progress = min(max(step - config.replay_start, 0) / config.final_exploration_step, 1.0)
    return config.initial_exploration + progress * (config.final_exploration - config.initial_exploration)


def q_targets(
    rewards: torch.Tensor, q: torch.Tensor, q_hat: torch.Tensor, terminals: torch.Tensor, discount: float
) -> torch.Tensor:
    """Double DQN's: y = r, or r + discount Q(s', argmax_a Q(s', a; theta); theta-) where the episode goes on.

    rewards (B,) float32, values of s' (B, A), terminals (B,) bool -> (B,) float32.
    """
    chosen = q.argmax(dim=1, keepdim=True)
    return rewards + discount * q_hat.gather(1, chosen).squeeze(1) * ~terminals


def importance_exponent(step: int, config: Config) -> float:
    """beta at an agent step: linear over the whole training, 1 at its end."""
    progress = min(step / config.training_steps, 1.0)
    return config.importance_exponent + progress * (1 - config.importance_exponent)


def importance_weights(probabilities: np.ndarray, count: int, beta: float) -> np.ndarray:
    """w_i = (1 / N 1 / P(i))^beta, N = `count`, over the largest of the minibatch. (B,) -> (B,) float64."""
    weights = (count * probabilities) ** -beta
    return weights / weights.max()


def new_priorities(errors: torch.Tensor, config: Config) -> np.ndarray:
    """Section 3.3: p_i = |delta_i| + epsilon, the error not clipped. (B,) -> (B,) float64 in main memory."""
    return errors.abs().cpu().double().numpy() + config.priority_floor


def q_loss(
    values: torch.Tensor, actions: torch.Tensor, targets: torch.Tensor, w: torch.Tensor, error_clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """DQN's, weighted: the gradient is the sum over the minibatch of -w clip(y - Q(s, a), -1, 1) dQ(s, a).

    values (B, A), actions (B,) int64, targets and weights w (B,) -> scalar, and the errors y - Q(s, a) (B,),
    not clipped and without gradient. Prioritized DQN's Algorithm 1, line 13.
    """
    chosen = values.gather(1, actions.unsqueeze(1)).squeeze(1)
    losses = F.huber_loss(chosen, targets, reduction="none", delta=error_clip)
    return (w * losses).sum(), (targets - chosen).detach()


class RMSProp:
    """DQN's released code's: centred, epsilon inside the root, no heavy ball. With d the gradient,

    g <- .95 g + .05 d;  s <- .95 s + .05 d^2;  w <- w - learning_rate d / sqrt(s - g^2 + .01).
    """

    def __init__(self, module: nn.Module, config: Config):
        self.weights, self.gradient = flatten_parameters(module)
        self.mean, self.mean_square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.config = config

    @torch.no_grad()
    def step(self) -> None:
        c, d, g, s = self.config, self.gradient, self.mean, self.mean_square
        g.lerp_(d, 1 - c.gradient_momentum)
        s.mul_(c.squared_gradient_momentum).addcmul_(d, d, value=1 - c.squared_gradient_momentum)
        variance = torch.addcmul(s, g, g, value=-1).clamp_(min=0)  # rounding: below 0 for a constant gradient
        self.weights.addcdiv_(d, variance.add_(c.min_squared_gradient).sqrt_(), value=-c.learning_rate)

    def state_dict(self) -> dict:
        return {"mean": self.mean, "mean_square": self.mean_square}

    def load_state_dict(self, state: dict) -> None:
        self.mean.copy_(torch.as_tensor(state["mean"]))
        self.mean_square.copy_(torch.as_tensor(state["mean_square"]))


def update(
    q: nn.Module, target: nn.Module, optimiser: RMSProp, batch: Batch, weights: torch.Tensor, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """One gradient step; returns the summed loss, a scalar, and the errors (B,), on the learner's device."""
    with torch.no_grad():
        q_next, q_hat_next = q(batch.next_states), target(batch.next_states)
        targets = q_targets(batch.rewards, q_next, q_hat_next, batch.terminals, config.discount)
    loss, errors = q_loss(q(batch.states), batch.actions, targets, weights, config.error_clip)
    optimiser.gradient.zero_()
    loss.backward()
    optimiser.step()
    return loss.detach(), errors


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
    """The whole training: Algorithm 1, evaluation phases, and the network that is kept."""
    c, rng = config, np.random.default_rng(run.seed)
    envs = make_envs(c, run.task, c.num_envs, run.seed)
    # Initialise replay memory D, action-value function Q and target action-value function Q^ = Q
    replay = Replay(
        c.replay_capacity, envs.obs_shape, envs.obs_dtype, num_envs=c.num_envs, stack=c.stack,
        **run.frame_storage(envs, c.replay_capacity),
    )  # fmt: skip
    # P(i) = p_i^alpha / sum_k p_k^alpha (Equation 1); a new transition has the largest priority so far
    priorities = Priorities(replay, c.prioritisation, exponent=c.priority_exponent)
    q, target, best = (make_network(c, envs).to(run.device) for _ in range(3))
    optimiser = RMSProp(q, c)
    target.load_state_dict(q.state_dict())
    if c.bfloat16:  # variant `fast`
        in_bfloat16(q, target)
    held_out = replay.blank_states(c.held_out_states)
    loss_sum = torch.zeros((), device=run.device)  # since the last evaluation phase
    progress = Progress()
    resumed = run.resume(
        progress, rng=rng, envs=envs, replay=replay, q=q, target=target, best=best, optimiser=optimiser,
        held_out=held_out, loss_sum=loss_sum, priorities=priorities,
    )  # fmt: skip
    if not resumed:
        replay.begin_episodes(envs.reset())
    gradient_step = on_batches(
        lambda batch, weights: update(q, target, optimiser, batch, weights, c), replay, c.cuda_graph
    )

    def learn() -> None:
        if progress.agent_steps <= c.replay_start:
            return
        for _ in range(progress.times_due(c.update_period)):
            # Sample transitions j ~ P(j); importance-sampling weights w_j = (N P(j))^-beta / max w
            indices, probabilities = priorities.draw(rng, c.batch_size)
            beta = importance_exponent(progress.agent_steps, c)
            weights = torch.from_numpy(importance_weights(probabilities, len(priorities), beta)).float()
            # Gradient step on w_j (y - Q(s, a; theta))^2, the error clipped; update the priorities p_j
            loss, errors = gradient_step(indices, weights.to(run.device))
            priorities.update(indices, new_priorities(errors, c))
            loss_sum.add_(loss)
            progress.updates += 1
        run.check_finite(loss_sum, progress)
        # Every C steps reset Q^ = Q
        if progress.times_due(c.target_period):
            target.load_state_dict(q.state_dict())
            progress.target_copies += 1

    if c.learn_while_stepping:  # variant `fast`
        envs, learn = overlapped(envs, learn)

    for _ in run.steps(progress):
        # With probability epsilon select a random action a_t, otherwise a_t = argmax_a Q(s_t, a)
        epsilon = exploration(progress.agent_steps, c)
        actions = act(q, replay.current(), epsilon, rng, envs.num_actions)
        # Execute a_t; observe reward r_t and the next image; store the transition in D
        progress.advance(c.num_envs)
        step = envs.step(actions)
        terminals = step.game_over | (step.life_lost & c.life_loss_terminal)
        replay.add(actions, step.rewards.clip(-c.reward_clip, c.reward_clip), terminals, step.obs)
        if step.done.any():
            run.log_episodes(progress, step)
            replay.begin_episodes(envs.reset_where(step.done), step.done)
        if progress.passed(c.replay_start):
            held_out.copy_(replay.sample(rng, c.held_out_states).states)

        learn()

        if progress.times_due(c.evaluation_period):
            estimates: list[float] = []
            run.evaluation_phase(
                progress, greedy(q, estimates), q, best, loss_sum, value_estimate=estimates,
                epsilon=exploration(progress.agent_steps, c), learning_rate=c.learning_rate,
                mean_max_q=mean_max_q(q, held_out), beta=importance_exponent(progress.agent_steps, c),
            )  # fmt: skip

    run.finish(progress, best if progress.best_score is not None else q, replay)


# --- evaluation and command line ---


def make_policy(q: nn.Module, config: Config) -> Policy:
    """What is evaluated: argmax_a Q(s, a). The protocol adds its epsilon."""
    return greedy(q)


if __name__ == "__main__":
    main("prioritized_dqn", Config, train)
