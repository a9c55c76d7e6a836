"""Rainbow (2018): Hessel et al., "Rainbow: Combining Improvements in Deep Reinforcement Learning", AAAI 2018, arXiv 1710.02298.

This is prioritized DQN (2016), proportional, with: distributions of returns on 51 atoms instead of their means; returns over three
steps; noisy linear layers instead of epsilon-greedy; a dueling head; Adam. Double Q-learning stays. Priorities are powers of the
loss. An earlier start, a shorter target period, a bias for each output and the loss averaged over the minibatch come with it. Each
of the six parts has a switch, which a variant turns off.

`paper.yaml` beside this file lists every constant with its source, and every point where this script differs from the paper.

Units: an agent step is one decision, usually 4 emulator frames; an update is one step of the optimiser. Loops count agent steps.

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
from common.learning.layers import fast_layers, flatten_parameters, wide_linear
from common.learning.priorities import Priorities
from common.learning.replay import Replay
from common.runs.command_line import main
from common.runs.progress import Progress
from common.runs.run import Run

# --- constants ---


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's; its Table 1 counts frames, four to an agent step. "DQN" is Mnih et al. (2015)."""

    training_steps: int = 50_000_000  # agent steps (200M frames)
    num_envs: int = 1  # environments stepped together; the paper has one
    frame_skip: int = 4  # frames per agent step; appendix
    stack: int = 4  # frames; appendix
    noop_max: int = 30  # frames; "Evaluation"
    max_frames: int = 108_000  # frames of an episode, 30 minutes; appendix
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
    priority_floor: float = 1e-6  # added to the loss; the paper gives none
    importance_exponent: float = 0.4  # beta at the start, 1 at the end of training; Table 1

    learning_rate: float = 0.0000625  # Adam, for gradients averaged over the minibatch; Table 1
    adam_epsilon: float = 1.5e-4  # outside the root; Table 1
    adam_beta1: float = 0.9  # Adam's own default; the paper gives none
    adam_beta2: float = 0.999  # Adam's own default; the paper gives none

    initial_exploration: float = 0.0  # epsilon: none, the noise explores; Table 1 ("no_noisy": 1)
    final_exploration: float = 0.0  # epsilon; Table 1 ("no_noisy": .01)
    final_exploration_step: int = 62_500  # agent steps after the replay start; 250K frames

    evaluation_period: int = 1_000_000  # agent steps between evaluation phases; "Evaluation"
    evaluation_steps: int = 125_000  # agent steps of a phase (500,000 frames); "Evaluation"
    evaluation_epsilon: float = 0.001  # the paper gives none
    held_out_states: int = 500  # states whose mean max Q is traced; DQN's released code "valid_size"

    learn_while_stepping: bool = False  # updates while the emulators step; the paper's come after
    cuda_graph: bool = False  # on a GPU, an update is launched as one graph: the same numbers


# max_a Q(s, a), averaged over the steps of the evaluation phase; the exponent of the weights
CURVE: tuple[str, ...] = ("value_estimate", "beta")


# --- network ---


class NoisyLinear(nn.Module):
    """Equation 4 with factorised noise: y = (mu + sigma f(e_out) f(e_in)^T) x + mu_b + sigma_b f(e_out), f(x) = sgn(x) sqrt|x|.

    Every call draws new noise, one for the whole batch; in `eval` mode there is none. The noisy matrix is never formed:
    (sigma f(e_out) f(e_in)^T) x = f(e_out) * (sigma (f(e_in) * x)).
    """

    def __init__(self, inputs: int, outputs: int, sigma: float):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, inputs) -> (B, outputs)."""
        y = wide_linear(x, self.weight, self.bias)
        if self.training:
            outputs, inputs = self.weight.shape
            noise = torch.randn(inputs + outputs, device=x.device)
            noise = noise.sign() * noise.abs().sqrt()
            y = y + noise[inputs:] * wide_linear(x * noise[:inputs], self.weight_sigma, self.bias_sigma)
        return y


class Screens(nn.Sequential):
    """Layers for screens: bytes become numbers from 0 to 1."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(states / 255)


class RainbowNetwork(nn.Module):
    """DQN's convolutions, then a value and an advantage stream of 512 units each, all noisy; "The Integrated Agent".

    Without "dueling" one stream, without "noisy" plain layers, without "distributional" one number instead of 51 per action.
    """

    def __init__(self, config: Config, num_actions: int, obs_shape: tuple[int, ...]):
        super().__init__()
        if config.network == "mlp":  # for vector observations (CartPole); not in the paper
            self.torso = nn.Sequential(
                nn.Flatten(), nn.Linear(config.stack * int(np.prod(obs_shape)), 128), nn.ReLU()
            )
            features, hidden = 128, 128
        else:
            self.torso = Screens(
                nn.Conv2d(config.stack, 32, 8, stride=4), nn.ReLU(),
                nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
                nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(),
                nn.Flatten(),
            )  # fmt: skip
            features, hidden = 3136, 512
        self.num_actions, self.atoms = num_actions, config.atoms if config.distributional else 1
        z = torch.linspace(config.value_min, config.value_max, self.atoms)
        self.register_buffer("z", z if config.distributional else None, persistent=False)

        def linear(inputs: int, outputs: int) -> nn.Module:
            return (
                NoisyLinear(inputs, outputs, config.noisy_sigma)
                if config.noisy
                else nn.Linear(inputs, outputs)
            )

        def stream(outputs: int) -> nn.Module:
            return nn.Sequential(linear(features, hidden), nn.ReLU(), linear(hidden, outputs))

        self.value = stream(self.atoms) if config.dueling else None
        self.advantage = stream(num_actions * self.atoms)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """states: (B, stack, 84, 84) uint8 or (B, stack, ...) float32 -> action values (B, num_actions) float32."""
        return self.values(self.logits(states))

    def values(self, logits: torch.Tensor) -> torch.Tensor:
        """Q(s, a) = sum_i z_i p_i(s, a), p = softmax(logits). (B, num_actions, atoms) -> (B, num_actions)."""
        return logits.squeeze(2) if self.z is None else logits.softmax(dim=2) @ self.z

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """States as above -> (B, num_actions, atoms). Dueling, atom by atom: v_i + a_i(a) - mean_a' a_i(a')."""
        features = self.torso(states)
        advantage = self.advantage(features).unflatten(1, (self.num_actions, self.atoms))
        if self.value is None:
            return advantage
        return self.value(features).unsqueeze(1) + advantage - advantage.mean(dim=1, keepdim=True)


def make_network(config: Config, envs) -> RainbowNetwork:
    """The network for these environments' observations and actions."""
    q = RainbowNetwork(config, envs.num_actions, envs.obs_shape)
    return fast_layers(q, q.torso)  # the same network, computed faster


# --- learning rule ---


def exploration(step: int, config: Config) -> float:
    """epsilon at an agent step, after the replay start linear to its final value; always 0 with noisy layers."""
    progress = min(max(step - config.replay_start, 0) / config.final_exploration_step, 1.0)
    return config.initial_exploration + progress * (config.final_exploration - config.initial_exploration)


def n_step_returns(rewards: torch.Tensor, discount: float) -> torch.Tensor:
    """The paper's "Multi-step learning": R^(n) = sum_k discount^k r_{t+k+1}. (B, n), zero after an episode's end -> (B,)."""
    return rewards @ discount ** torch.arange(rewards.shape[1], device=rewards.device, dtype=rewards.dtype)


def project(
    returns: torch.Tensor, discounts: torch.Tensor, probabilities: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """Phi_z: the distribution of R + discount * z on the atoms z themselves. (B,), (B,), (B, atoms), (atoms,) -> (B, atoms).

    Each shifted atom is clipped to the support and shared out between its two neighbours by closeness; an atom that falls on
    another gives it all. No terminal needs a case of its own: with discount 0 all the mass lies at R.
    """
    spacing = z[1] - z[0]
    moved = (returns.unsqueeze(1) + discounts.unsqueeze(1) * z).clamp(z[0], z[-1])
    closeness = (1 - (moved.unsqueeze(1) - z.unsqueeze(1)).abs() / spacing).clamp(min=0)  # (B, to, from)
    return (closeness * probabilities.unsqueeze(1)).sum(dim=2)


def importance_exponent(step: int, config: Config) -> float:
    """beta at an agent step: linear over the whole training, 1 at its end (Table 1)."""
    return config.importance_exponent + min(step / config.training_steps, 1.0) * (
        1 - config.importance_exponent
    )


def importance_weights(probabilities: np.ndarray, size: int, beta: float) -> np.ndarray:
    """w_i = (1 / N 1 / P(i))^beta, divided by the largest of the minibatch (prioritized DQN). (B,) -> (B,) float64."""
    weights = (size * probabilities) ** -beta
    return weights / weights.max()


def new_priorities(losses: torch.Tensor, config: Config) -> np.ndarray:
    """The paper's "Prioritized replay": p_i is the loss, not weighted; omega comes later. (B,) -> (B,) float64 in main memory."""
    return (
        losses.clamp(min=0).cpu().double().numpy() + config.priority_floor
    )  # rounding can make a KL of 0 negative


class Adam:
    """Adam on one flat vector, a single fused pass."""

    def __init__(self, module: nn.Module, config: Config):
        self.weights, self.gradient = flatten_parameters(module)
        self.parameter = nn.Parameter(self.weights)
        self.parameter.grad = self.gradient
        self.adam = torch.optim.Adam(
            [self.parameter], lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon, fused=True, capturable=self.weights.is_cuda,
        )  # fmt: skip

    def step(self) -> None:
        self.adam.step()

    def state_dict(self) -> dict:
        return dict(self.adam.state[self.parameter])

    def load_state_dict(self, state: dict) -> None:
        device = self.weights.device
        self.adam.state[self.parameter] = {
            name: torch.tensor(value, device=device) for name, value in state.items()
        }


def update(
    q: nn.Module, target: nn.Module, optimiser: Adam, batch: Batch, weights: torch.Tensor, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """One gradient step; returns the weighted mean loss, a scalar tensor on the learner's device, and what priorities are made
    of (B,): KL(Phi_z d' || d), or without "distributional" the size of the error. Each forward pass has noise of its own."""
    rows = torch.arange(len(weights), device=weights.device)
    returns = n_step_returns(batch.rewards, config.discount)
    discounts = config.discount**batch.steps * ~batch.terminals
    with torch.no_grad():
        next_logits = target.logits(batch.next_states)
        chosen = (q(batch.next_states) if config.double else target.values(next_logits)).argmax(dim=1)
    logits = q.logits(batch.states)[rows, batch.actions]
    if config.distributional:
        goal = project(returns, discounts, next_logits[rows, chosen].softmax(dim=1), q.z)
        losses = (torch.xlogy(goal, goal) - goal * logits.log_softmax(dim=1)).sum(dim=1)
        sizes = losses.detach()
    else:
        errors = returns + discounts * next_logits[rows, chosen, 0] - logits[:, 0]
        losses = F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=config.error_clip)
        sizes = errors.detach().abs()
    loss = (weights * losses).mean()
    optimiser.gradient.zero_()
    loss.backward()
    optimiser.step()
    return loss.detach(), sizes


# --- training ---


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
    c, rng = config, np.random.default_rng(run.seed)
    envs = make_envs(c, run.task, c.num_envs, run.seed)
    # Initialise replay memory D, action-value function Q and target action-value function Q^ = Q
    replay = Replay(
        c.replay_capacity, envs.obs_shape, envs.obs_dtype, num_envs=c.num_envs, stack=c.stack, n_step=c.n_step,
        **run.frame_storage(envs, c.replay_capacity),
    )  # fmt: skip
    # P(i) = p_i^omega / sum_k p_k^omega; a new transition has the largest priority so far
    priorities = Priorities(replay, exponent=c.priority_exponent)
    q, target, best = (make_network(c, envs).to(run.device) for _ in range(3))
    optimiser = Adam(q, c)
    target.load_state_dict(q.state_dict())
    held_out = torch.zeros(
        (c.held_out_states, *replay.state_shape), dtype=replay.torch_dtype, device=run.device
    )
    loss_sum = torch.zeros((), device=run.device)  # since the last evaluation phase
    progress = Progress()
    resumed = run.resume(
        progress, rng=rng, envs=envs, replay=replay, priorities=priorities, q=q, target=target, best=best,
        optimiser=optimiser, held_out=held_out, loss_sum=loss_sum,
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
            else:
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
        # Select a_t = argmax_a Q(s_t, a) under new noise (with probability epsilon a random one, without noisy layers)
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
                progress,
                greedy(q, estimates),
                q,
                best,
                loss_sum,
                epsilon=exploration(progress.agent_steps, c),
                learning_rate=c.learning_rate,
                mean_max_q=mean_max_q(q, held_out),
                beta=importance_exponent(progress.agent_steps, c),
                value_estimate=estimates,
            )
            q.train()

    run.finish(progress, best if progress.best_score is not None else q, replay)


# --- evaluation and command line ---


def make_policy(q: nn.Module, config: Config) -> Policy:
    """What is evaluated: argmax_a Q(s, a), without noise. The protocol adds its epsilon."""
    return greedy(q.eval())


if __name__ == "__main__":
    main("rainbow", Config, train)
