"""Rainbow (2018): Hessel et al., "Rainbow: Combining Improvements in Deep Reinforcement Learning", AAAI 2018.

This is prioritized DQN (2016), proportional, with: distributions of returns on 51 atoms, not only their
means; returns over three steps; noisy linear layers, not epsilon-greedy; a dueling head; Adam. Priorities are
powers of the loss. Learning starts earlier, the target period is shorter, each output has a bias of its own,
the loss is averaged over the minibatch, and large gradients are clipped. Each of the six parts has a switch,
which a variant turns off.

`paper.yaml` beside this file lists every constant with its source, and every point where this script differs
from the paper; `network.py` is the network. Four things are not in this folder: the screens
(common/environments/atari.py), the replay memory (common/learning/replay.py and priorities.py), the
evaluation (common/evaluation/protocol.py), and a run's folder, checkpoints and logs (common/runs/run.py).

Units: an agent step is one decision, usually 4 emulator frames; an update is one step of the optimiser.
Loops count agent steps.

    ./run python -m replications.rainbow.train --task pong --seed 1 --budget hour
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
from common.learning.layers import fast_layers, flatten_parameters
from common.learning.priorities import Priorities
from common.learning.replay import Replay
from common.runs.command_line import main
from common.runs.progress import Progress
from common.runs.run import Run
from replications.rainbow.network import RainbowNetwork

# --- constants ---


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's; Table 1 counts frames, 4 to an agent step. "DQN" is Mnih et al. (2015)."""

    training_steps: int = 50_000_000  # agent steps (200M frames)
    num_envs: int = 1  # environments stepped together; the paper has one
    frame_skip: int = 4  # frames per agent step; appendix
    stack: int = 4  # frames; appendix
    noop_max: int = 30  # frames; "Evaluation"
    max_frames: int = 108_000  # frames of an episode, 30 minutes; appendix
    time_limit: Literal["xitari", "none"] = "xitari"  # then game over; DQN's released code
    preprocessing: Literal["nature", "ale"] = "nature"  # DQN, Methods; "ale" is faster and not the paper's
    life_loss_terminal: bool = True  # appendix
    reward_clip: float = 1.0  # raw score; appendix

    network: Literal["nature", "mlp"] = "nature"  # appendix; "mlp" for vector observations
    double: bool = True  # the network that learns chooses the action of the target; "Double Q-learning"
    prioritised: bool = True  # "Prioritized replay"
    dueling: bool = True  # "Dueling networks"
    n_step: int = 3  # agent steps; Table 1 "multi-step returns n"
    distributional: bool = True  # "Distributional RL"
    noisy: bool = True  # "Noisy Nets"
    replay_capacity: int = 1_000_000  # slots (agent steps); appendix
    replay_start: int = 20_000  # agent steps; Table 1 "min history to start learning", 80K frames
    batch_size: int = 32  # transitions; appendix
    update_period: int = 4  # agent steps per update; appendix
    target_period: int = 8_000  # agent steps; Table 1 "target network period", 32K frames
    discount: float = 0.99  # appendix

    atoms: int = 51  # of the support; Table 1
    value_min: float = -10.0  # of the support; Table 1
    value_max: float = 10.0  # of the support; Table 1
    error_clip: float = 1.0  # on the temporal-difference error, without "distributional"; DQN, Methods
    noisy_sigma: float = 0.5  # sigma_0; Table 1

    priority_exponent: float = 0.5  # omega; Table 1
    priority: Literal["kl", "cross_entropy"] = "kl"  # the loss that it is of; "The Integrated Agent"
    priority_floor: float = 1e-6  # added to the loss; the paper gives none
    importance_exponent: float = 0.4  # beta at the start, 1 at the end of training; Table 1

    learning_rate: float = 0.0000625  # Adam, for gradients averaged over the minibatch; Table 1
    adam_epsilon: float = 1.5e-4  # outside the root; Table 1
    adam_beta1: float = 0.9  # Adam's own default; the paper gives none
    adam_beta2: float = 0.999  # Adam's own default; the paper gives none
    max_gradient_norm: float = 10.0  # global; an author's word, see paper.yaml

    initial_exploration: float = 0.0  # epsilon: none, the noise explores; Table 1 ("no_noisy": 1)
    final_exploration: float = 0.0  # epsilon; Table 1 ("no_noisy": .01)
    final_exploration_step: int = 62_500  # agent steps after the replay start; 250K frames

    evaluation_period: int = 250_000  # agent steps between evaluation phases (1M frames); "Evaluation"
    evaluation_steps: int = 125_000  # agent steps of a phase (500,000 frames); "Evaluation"
    evaluation_epsilon: float = 0.001  # the paper gives none
    held_out_states: int = 500  # states whose mean max Q is traced; DQN's released code "valid_size"

    learn_while_stepping: bool = False  # updates while the emulators step; the paper's come after
    cuda_graph: bool = False  # on a GPU, an update is launched as one graph: the same numbers


# max_a Q(s, a), the mean over a phase's steps; the exponent of the weights
CURVE: tuple[str, ...] = ("value_estimate", "beta")


# --- network: see network.py ---


def make_network(config: Config, envs) -> RainbowNetwork:
    """The network for these environments' observations and actions."""
    q = RainbowNetwork(config, envs.num_actions, envs.obs_shape)
    return fast_layers(q, q.torso)  # the same network, computed faster


# --- learning rule ---


def exploration(step: int, config: Config) -> float:
    """epsilon at an agent step: its initial value until the replay start, then linear to its final value."""
    progress = min(max(step - config.replay_start, 0) / config.final_exploration_step, 1.0)
    return config.initial_exploration + progress * (config.final_exploration - config.initial_exploration)


def n_step_returns(rewards: torch.Tensor, discount: float) -> torch.Tensor:
    """R^(n) = sum_k discount^k r_{t+k+1} ("Multi-step learning"). (B, n), 0 after an end -> (B,)."""
    return rewards @ discount ** torch.arange(rewards.shape[1], device=rewards.device, dtype=rewards.dtype)


def project(
    returns: torch.Tensor, discounts: torch.Tensor, probabilities: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """Phi_z: the distribution of R + discount z, on atoms z. (B,), (B,), (B, atoms), (atoms,) -> (B, atoms).

    Each shifted atom is clipped to the support and shared out between its two neighbours by closeness; one
    that falls on an atom gives it all. A terminal has no case of its own: with discount 0 all mass lies at R.
    """
    spacing = z[1] - z[0]
    moved = (returns.unsqueeze(1) + discounts.unsqueeze(1) * z).clamp(z[0], z[-1])
    closeness = (1 - (moved.unsqueeze(1) - z.unsqueeze(1)).abs() / spacing).clamp(min=0)  # (B, to, from)
    return (closeness * probabilities.unsqueeze(1)).sum(dim=2)


def importance_exponent(step: int, config: Config) -> float:
    """beta at an agent step: linear over the whole training, 1 at its end."""
    progress = min(step / config.training_steps, 1.0)
    return config.importance_exponent + progress * (1 - config.importance_exponent)


def importance_weights(probabilities: np.ndarray, count: int, beta: float) -> np.ndarray:
    """w_i = (1 / N 1 / P(i))^beta, N = `count`, over the largest of the minibatch. (B,) -> (B,) float64."""
    weights = (count * probabilities) ** -beta
    return weights / weights.max()


def new_priorities(sizes: torch.Tensor, config: Config) -> np.ndarray:
    """p_i is the loss, not weighted ("The Integrated Agent"). (B,) -> (B,) float64 in main memory."""
    return sizes.clamp(min=0).cpu().double().numpy() + config.priority_floor  # rounding: a KL of 0 below 0


def make_adam(q: nn.Module, config: Config) -> torch.optim.Adam:
    """Adam of the network's weights as one vector, which is one pass over them."""
    weights, gradient = flatten_parameters(q)
    vector = nn.Parameter(weights)
    vector.grad = gradient
    return torch.optim.Adam(
        [vector], lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon, fused=True, capturable=weights.is_cuda,
    )  # fmt: skip


def of_actions(logits: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """(B, num_actions, atoms), (B,) int64 -> (B, atoms)."""
    return logits[torch.arange(len(actions), device=actions.device), actions]


def what_follows(q: nn.Module, target: nn.Module, batch: Batch, config: Config) -> tuple[torch.Tensor, ...]:
    """R^(n) (B,); the discount of what comes after it (B,), 0 after a terminal; its logits (B, atoms), which
    are the target network's for the action that the learning network chooses."""
    returns = n_step_returns(batch.rewards, config.discount)
    discounts = config.discount**batch.steps * ~batch.terminals
    with torch.no_grad():
        logits = target.logits(batch.next_states)
        values = q(batch.next_states) if config.double else target.values(logits)
    return returns, discounts, of_actions(logits, values.argmax(dim=1))


def distributional_loss(
    q: nn.Module, target: nn.Module, batch: Batch, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(Phi_z d' || d), (B,) ("Distributional RL"), and what priorities are made of: that or the cross-entropy."""
    returns, discounts, logits = what_follows(q, target, batch, config)
    goal = project(returns, discounts, logits.softmax(dim=1), q.z)
    log_p = of_actions(q.logits(batch.states), batch.actions).log_softmax(dim=1)
    losses = (torch.xlogy(goal, goal) - goal * log_p).sum(dim=1)
    return losses, losses.detach() if config.priority == "kl" else -(goal * log_p).sum(dim=1).detach()


def error_loss(
    q: nn.Module, target: nn.Module, batch: Batch, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """Without "distributional": DQN's loss of the clipped error, (B,), and the size of the error."""
    returns, discounts, values = what_follows(q, target, batch, config)
    errors = returns + discounts * values[:, 0] - of_actions(q.logits(batch.states), batch.actions)[:, 0]
    losses = F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=config.error_clip)
    return losses, errors.detach().abs()


def update(
    q: nn.Module, target: nn.Module, adam: torch.optim.Adam, batch: Batch, w: torch.Tensor, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """One gradient step; returns the weighted mean loss, a scalar, and what priorities are made of, (B,),
    both on the learner's device. Each of the forward passes has noise of its own."""
    losses, sizes = (distributional_loss if config.distributional else error_loss)(q, target, batch, config)
    loss = (w * losses).mean()
    adam.zero_grad(set_to_none=False)
    loss.backward()
    nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], config.max_gradient_norm)
    adam.step()
    return loss.detach(), sizes


# --- training: Algorithm 1 of prioritized DQN ---


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
        n_step=c.n_step, **run.frame_storage(envs, c.replay_capacity),
    )  # fmt: skip
    # P(i) = p_i^omega / sum_k p_k^omega; a new transition has the largest priority so far
    priorities = Priorities(replay, exponent=c.priority_exponent)
    q, target, best = (make_network(c, envs).to(run.device) for _ in range(3))
    optimiser = make_adam(q, c)
    target.load_state_dict(q.state_dict())
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
            if c.prioritised:  # transitions j ~ P(j), weights w_j = (N P(j))^-beta / max w
                indices, probabilities = priorities.draw(rng, c.batch_size)
                beta = importance_exponent(progress.agent_steps, c)
                weights = torch.from_numpy(importance_weights(probabilities, len(priorities), beta)).float()
            else:  # a random minibatch from D
                indices, weights = replay.draw(rng, c.batch_size), torch.ones(c.batch_size)
            # Gradient step on w_j KL(Phi_z d' || d); update the priorities p_j
            loss, sizes = gradient_step(indices, weights.to(run.device))
            if c.prioritised:
                priorities.update(indices, new_priorities(sizes, c))
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
        # Select a_t = argmax_a Q(s_t, a) under new noise; epsilon is 0 with noisy layers
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
            q.eval()  # without noise
            run.evaluation_phase(
                progress, greedy(q, estimates), q, best, loss_sum, value_estimate=estimates,
                epsilon=exploration(progress.agent_steps, c), learning_rate=c.learning_rate,
                mean_max_q=mean_max_q(q, held_out), beta=importance_exponent(progress.agent_steps, c),
            )  # fmt: skip
            q.train()

    run.finish(progress, best if progress.best_score is not None else q, replay)


# --- evaluation and command line ---


def make_policy(q: nn.Module, config: Config) -> Policy:
    """What is evaluated: argmax_a Q(s, a), without noise. The protocol adds its epsilon."""
    return greedy(q.eval())


if __name__ == "__main__":
    main("rainbow", Config, train)
