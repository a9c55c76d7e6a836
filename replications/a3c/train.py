"""Asynchronous advantage actor-critic (A3C): Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", ICML 2016.

This is DQN (2015) without a replay memory. Instead, several actor-learners, each a process with a game of its own, update one
set of shared parameters without locks: every few steps a worker copies the parameters, plays on, and applies the sum of its
gradients through an RMSProp whose statistics are shared too. The policy is a softmax; a value function on the same layers is
its baseline. The paper's other asynchronous methods are variants: 1-step Q, 1-step Sarsa, n-step Q, and an LSTM for A3C.
`paper.yaml` beside this file lists every constant with its source, and every point where this script differs from the paper.

Four things are not in this file: the screens (common/environments/atari.py), how processes share memory and rest together
(common/learning/workers.py), how an agent is evaluated (common/evaluation/protocol.py), and a run's folder, checkpoints and
logs (common/runs/run.py).

Units: an agent step is one decision of one worker, usually 4 emulator frames; an update is one asynchronous step of RMSProp.
The paper's T counts the agent steps of all workers together, and so does everything here.

    ./run python -m replications.a3c.train --task pong --seed 1 --budget hour
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.environments.atari import FrameStack
from common.environments.make import make_envs
from common.environments.vector import Step
from common.errors import UserError
from common.evaluation.protocol import Policy
from common.learning.layers import fast_layers, flatten_parameters
from common.learning.workers import Workers, share_parameters, shared_zeros
from common.papers import Task
from common.runs.command_line import main
from common.runs.progress import Progress
from common.runs.run import Run
from replications.a3c import value_based
from replications.a3c.playing import Player, sample, zero_hidden
from replications.a3c.rollout import Method, Rollout, n_step_returns

DEVICE = "cpu"  # workers are processes of the CPU, as in the paper

# --- constants ---

CURVE = ("entropy", "policy_loss", "value_loss")  # and the loss: means per agent step since the last row


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's ("s. 8" is its section 8, experimental setup); "e-mail" is what its authors wrote afterwards."""

    training_steps: int = 80_000_000  # agent steps of all workers (320M frames)
    workers: int = 16  # processes; s. 8. Fewer on a machine with fewer cores, see `fit_to_machine`
    frame_skip: int = 4  # frames per agent step; s. 8
    stack: int = 4  # frames; Mnih et al. 2015
    noop_max: int = 30  # frames; Mnih et al. 2015
    max_frames: int = 108_000  # after which an episode is cut (30 minutes); van Hasselt et al. 2016
    time_limit: Literal["xitari", "none"] = "xitari"  # then game over; DQN's
    preprocessing: Literal["nature", "ale"] = "nature"  # Mnih et al. 2015; "ale" is faster, not the paper's
    life_loss_terminal: bool = True  # Mnih et al. 2015
    reward_clip: float = 1.0  # raw score; Mnih et al. 2015

    algorithm: Literal["one_step_q", "one_step_sarsa", "n_step_q", "a3c"] = "a3c"  # s. 4
    network: Literal["mnih2013", "mnih2015", "mlp"] = "mnih2013"  # s. 8, s. 5.1; "mlp" for vectors
    lstm: bool = False  # 256 cells after the last hidden layer; s. 5.1
    rollout: int = 5  # agent steps of a worker per update: t_max and I_AsyncUpdate; s. 8
    discount: float = 0.99  # s. 8
    entropy_weight: float = 0.01  # beta; s. 8
    value_gradient: float = 0.5  # times (V - R); e-mail. The paper's formula d(R - V)^2 would be 2
    q_gradient: float = (
        1.0  # times (Q - R), value-based methods; as public code has it, the formula would be 2
    )
    learning_rate: float = 0.0007  # for gradients summed over the rollout, falls to 0; e-mail
    squared_gradient_decay: float = 0.99  # alpha; s. 8
    min_squared_gradient: float = 0.1  # inside the root; e-mail
    max_gradient_norm: float = 40.0  # e-mail

    target_period: int = 10_000  # agent steps (40,000 frames), value-based methods; s. 8
    initial_exploration: float = 1.0  # epsilon, value-based methods; s. 8
    final_exploration_step: int = 1_000_000  # agent steps (4M frames), value-based methods; s. 8

    evaluation_period: int = 250_000  # agent steps between phases (1M frames); Fortunato et al. 2018
    evaluation_steps: int = 125_000  # agent steps of a phase (500,000 frames); Fortunato et al. 2018
    evaluation_epsilon: float = 0.0  # the policy is sampled; value-based methods choose greedily


def fit_to_machine(config: Config) -> dict:
    """The settings that this machine asks for: a worker needs a core of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"workers": min(config.workers, cores)}


# --- network ---


class Network(nn.Module):
    """Convolutions, a hidden layer, optionally 256 LSTM cells; a softmax policy and a linear value on top.

    "mnih2013" (s. 8): 16 8x8 stride 4, 32 4x4 stride 2, 256 units. "mnih2015" (s. 5.1): 32 8x8 stride 4, 64 4x4 stride 2,
    64 3x3 stride 1, 512 units. Value-based methods have action values in the policy's place, and no value. PyTorch's default
    initialisation, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases, is that of the authors' Torch.
    """

    def __init__(self, config: Config, num_actions: int, obs_shape: tuple[int, ...]):
        super().__init__()
        relu, stack = nn.ReLU(), config.stack
        if config.network == "mlp":
            convolutions, inputs, units = [], stack * int(np.prod(obs_shape)), 128
        elif config.network == "mnih2013":
            convolutions = [nn.Conv2d(stack, 16, 8, stride=4), relu, nn.Conv2d(16, 32, 4, stride=2), relu]
            inputs, units = 2592, 256
        else:
            convolutions = [nn.Conv2d(stack, 32, 8, stride=4), relu, nn.Conv2d(32, 64, 4, stride=2), relu]
            convolutions += [nn.Conv2d(64, 64, 3), relu]
            inputs, units = 3136, 512
        self.scale = 255 if convolutions else 1
        self.torso = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(inputs, units), relu)
        self.lstm = nn.LSTM(units, 256) if config.lstm else None
        self.policy = nn.Linear(256 if config.lstm else units, num_actions)
        self.value = nn.Linear(self.policy.in_features, 1) if METHODS[config.algorithm].actor_critic else None

    def forward(self, states: torch.Tensor, hidden: torch.Tensor | None = None, sequence: bool = False):
        """states: (B, stack, 84, 84) uint8 or (B, stack, inputs) float32; hidden: (2, N, 256), h and c of the LSTM before them.

        sequence: the B states follow each other in one environment (N = 1); else each has an environment of its own (N = B).
        Returns logits or action values (B, A), state values (B,) or None, and hidden after the states.
        """
        x = self.torso(states / self.scale)
        if self.lstm is not None:
            x, (h, c) = self.lstm(x.unsqueeze(1 if sequence else 0), (hidden[:1], hidden[1:]))
            x, hidden = x.squeeze(1 if sequence else 0), torch.cat([h, c])
        return self.policy(x), None if self.value is None else self.value(x).squeeze(1), hidden


def make_network(config: Config, envs) -> Network:
    """The network for these environments' observations and actions."""
    return fast_layers(Network(config, envs.num_actions, envs.obs_shape))  # the same network, computed faster


# --- learning rule ---


def a3c_losses(
    logits: torch.Tensor, values: torch.Tensor, actions: torch.Tensor, returns: torch.Tensor, config: Config
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Algorithm S3 with s. 4's entropy: policy loss, value loss and entropy, each a scalar, summed over the rollout.

    logits (T, A), values (T,), actions (T,) int64, returns (T,). Descending policy_loss + value_loss - beta entropy ascends
    log pi(a|s) (R - V(s)), R - V(s) taken as a constant, and moves V by the authors' half of (R - V).
    """
    log_policy = F.log_softmax(logits, dim=1)
    advantages = (returns - values).detach()
    policy_loss = -(log_policy.gather(1, actions.unsqueeze(1)).squeeze(1) * advantages).sum()
    value_loss = config.value_gradient / 2 * (returns - values).square().sum()
    entropy = -(log_policy.exp() * log_policy).sum()
    return policy_loss, value_loss, entropy


def a3c(network: Network, _target, r: Rollout, c: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm S3: R = 0 for terminal s_t, V(s_t; theta') otherwise; that look at s_t does not move the LSTM's state on."""
    with torch.no_grad():
        bootstrap = 0.0 if r.terminal else float(network(r.states[-1:], r.last_hidden)[1])
    logits, values, _ = network(r.states[:-1], r.hidden, sequence=True)
    returns = n_step_returns(r.rewards, bootstrap, c.discount)
    policy_loss, value_loss, entropy = a3c_losses(logits, values, r.actions, returns, c)
    loss = policy_loss + value_loss - c.entropy_weight * entropy
    return loss, torch.stack([entropy, policy_loss, value_loss]).detach()


METHODS = value_based.METHODS | {"a3c": Method(a3c, actor_critic=True)}


def learning_rate(step: int, config: Config) -> float:
    """Linear to 0 over the training, by the agent steps of all workers."""
    return config.learning_rate * max(1 - step / config.training_steps, 0.0)


class SharedRMSProp:
    """s. 4, "Optimization": not centred, statistics shared by all workers, no locks. With d a worker's summed gradient,

    s <- .99 s + .01 d^2;  w <- w - learning_rate d / sqrt(s + .1).
    """

    def __init__(self, weights: torch.Tensor, config: Config):
        self.weights, self.mean_square = weights, shared_zeros(len(weights))
        self.root = torch.empty_like(weights)  # each process has a copy of its own once forked
        self.config = config

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, learning_rate: float) -> None:
        """gradient: (P,), of one worker; it is clipped in place to a global norm of 40."""
        c, norm = self.config, float(gradient.norm())
        if norm > c.max_gradient_norm:
            gradient.mul_(c.max_gradient_norm / norm)
        decay = c.squared_gradient_decay
        self.mean_square.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
        torch.add(self.mean_square, c.min_squared_gradient, out=self.root).sqrt_()
        self.weights.addcdiv_(gradient, self.root, value=-learning_rate)


# --- an actor-learner: what Algorithms 1, S2 and S3 have in common ---


class Shared:
    """What the workers share: theta, theta-, the statistics of RMSProp, and counters of which each worker writes its own row."""

    def __init__(self, config: Config, envs):
        self.network, self.target = make_network(config, envs), make_network(config, envs)
        self.weights, self.target_weights = share_parameters(self.network), share_parameters(self.target)
        self.target_weights.copy_(self.weights)
        self.optimiser = SharedRMSProp(self.weights, config)
        self.counts = shared_zeros(config.workers, 2, dtype=torch.int64)  # agent steps, updates
        # Sums since the last row of the curve: loss, CURVE, agent steps
        self.metrics = shared_zeros(config.workers, 5, dtype=torch.float64)
        self.target_copies = shared_zeros(1, dtype=torch.int64)

    def agent_steps(self) -> int:
        """The paper's T."""
        return int(self.counts.numpy()[:, 0].sum())


class ActorLearner:
    """One worker: its game, its copy theta' of the parameters, its LSTM's state."""

    def __init__(self, index: int, config: Config, task: Task, seed: int, shared: Shared):
        own = np.random.SeedSequence((seed, 0xA3C, index))
        self.index, self.config, self.shared = index, config, shared
        self.method = METHODS[config.algorithm]
        self.rng = np.random.default_rng(own)
        self.envs = make_envs(config, task, 1, int(own.generate_state(1)[0] >> 1), threads=1)
        self.network = make_network(config, self.envs)
        self.weights, self.gradient = flatten_parameters(self.network)
        self.stack = FrameStack.of(self.envs, config.stack)
        self.begin_game(self.envs.reset())

    def wants(self, until: int) -> bool:
        return self.shared.agent_steps() < until

    def work(self) -> list[tuple[int, float, int]]:
        """One rollout and one update; returns (T, raw score, agent steps) of a game that ended with it."""
        c, shared = self.config, self.shared
        # Synchronise thread-specific parameters theta' = theta; reset gradients d theta <- 0
        self.weights.copy_(shared.weights)
        self.gradient.zero_()
        rollout, step = self.play()
        # Accumulate gradients of the method's loss with respect to theta'
        loss, parts = self.method.loss(self.network, shared.target, rollout, c)
        loss.backward()
        # Perform asynchronous update of theta using d theta; T <- T + n
        shared.optimiser.step(self.gradient, learning_rate(shared.agent_steps(), c))
        n = len(rollout.actions)
        shared.counts[self.index] += torch.tensor([n, 1])
        shared.metrics[self.index] += torch.cat([loss.detach().view(1), parts, torch.tensor([n])])
        # if T mod I_target == 0: theta- <- theta
        copies = shared.agent_steps() // c.target_period
        if not self.method.actor_critic and copies > int(shared.target_copies):
            shared.target_copies.fill_(copies)
            shared.target_weights.copy_(shared.weights)

        if not step.done[0]:
            return []
        self.begin_game(self.envs.reset_where(step.done))
        return [(shared.agent_steps(), float(step.scores[0]), int(step.lengths[0]))]

    def play(self) -> tuple[Rollout, Step]:
        """Acts until s_t is terminal, the game is cut, or t - t_start == t_max; also returns the last step."""
        c, hidden = self.config, self.hidden  # at the start of the rollout: no gradient flows back beyond it
        states, actions, rewards, terminal, done = [self.stack.planes[0].copy()], [], [], False, False
        while not (terminal or done) and len(actions) < c.rollout:
            # Perform a_t according to policy pi(a_t|s_t; theta'), or epsilon-greedily; receive r_t and s_t+1
            actions.append(self.act() if self.next_action is None else self.next_action)
            step = self.envs.step(np.array(actions[-1:]))
            rewards.append(step.rewards.clip(-c.reward_clip, c.reward_clip)[0])
            self.stack.push(step.obs)
            states.append(self.stack.planes[0].copy())
            terminal = bool(step.game_over[0] or (step.life_lost[0] and c.life_loss_terminal))
            done = bool(step.done[0])
            self.next_action = self.act() if self.method.chooses_first and not terminal else None
        rollout = Rollout(
            torch.from_numpy(np.stack(states)), torch.tensor(actions), torch.tensor(rewards, dtype=torch.float32),
            terminal, hidden, self.hidden, self.next_action,
        )  # fmt: skip
        return rollout, step

    @torch.no_grad()
    def act(self) -> int:
        """An action in the current state, from theta'; moves the LSTM's state on."""
        outputs, _, self.hidden = self.network(torch.from_numpy(self.stack.planes), self.hidden)
        if self.method.actor_critic:
            return int(sample(outputs, [self.rng])[0])
        epsilon = value_based.exploration(self.shared.agent_steps(), self.final_exploration, self.config)
        explore, action = self.rng.random() < epsilon, int(self.rng.integers(outputs.shape[1]))
        return action if explore else int(outputs.argmax())

    def begin_game(self, obs: np.ndarray) -> None:
        """obs: (1, *obs_shape), the first of the game."""
        self.stack.begin_episodes(obs, np.ones(1, dtype=bool))
        self.hidden, self.next_action = zero_hidden(self.config), None
        self.final_exploration = value_based.draw_final_exploration(self.rng)

    def state_dict(self) -> dict:
        return {
            "envs": self.envs.state_dict(), "rng": self.rng.bit_generator.state, "stack": self.stack.state_dict(),
            "hidden": None if self.hidden is None else self.hidden.numpy(), "next_action": self.next_action,
            "final_exploration": self.final_exploration,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self.envs.load_state_dict(state["envs"])
        self.rng.bit_generator.state = state["rng"]
        self.stack.load_state_dict(state["stack"])
        self.hidden = None if state["hidden"] is None else torch.as_tensor(state["hidden"])
        self.next_action, self.final_exploration = state["next_action"], state["final_exploration"]


# --- training ---


def train(config: Config, run: Run) -> None:
    c = config
    if c.lstm and not METHODS[c.algorithm].actor_critic:
        raise UserError(f"lstm and algorithm {c.algorithm!r} do not go together; the paper's LSTM is a3c's")
    torch.set_num_threads(1)  # in this process, which evaluates while the workers rest, and in each worker
    probe = make_envs(c, run.task, 1, run.seed)
    # Globally shared parameter vectors theta (and theta-), counter T = 0
    shared, best = Shared(c, probe), make_network(c, probe)
    probe.close()
    progress = Progress()

    def episode_ended(news: tuple[int, float, int]) -> None:
        step, score, length = news
        progress.agent_steps = max(progress.agent_steps, step)
        run.log_episode(progress, score, length)

    with Workers(c.workers, lambda i: ActorLearner(i, c, run.task, run.seed, shared)) as workers:
        run.resume(
            progress, network=shared.network, target=shared.target, best=best, counts=shared.counts,
            mean_square=shared.optimiser.mean_square, metrics=shared.metrics, target_copies=shared.target_copies,
            workers=workers,
        )  # fmt: skip
        for _ in run.steps(progress):
            # All workers play and learn, until an evaluation phase is due or some seconds have passed; then all rest
            before = progress.agent_steps
            until = min((before // c.evaluation_period + 1) * c.evaluation_period, c.training_steps)
            workers.run(until, run.seconds_between_ticks, run.interrupted, episode_ended)
            progress.before, progress.agent_steps = before, shared.agent_steps()
            progress.updates = int(shared.counts[:, 1].sum())
            progress.target_copies = int(shared.target_copies)

            if progress.times_due(c.evaluation_period):
                scores = run.evaluate(make_policy(shared.network, c), progress)
                progress.keep_best(scores, shared.network, best)
                *sums, steps = shared.metrics.sum(0).tolist()
                means = {name: total / steps for name, total in zip(("loss", *CURVE), sums, strict=True)}
                run.log_phase(progress, scores, learning_rate=learning_rate(progress.agent_steps, c), **means)
                shared.metrics.zero_()
                progress.evaluations += 1

    run.finish(progress, best if progress.best_score is not None else shared.network)


# --- evaluation and command line ---


def make_policy(network: Network, config: Config) -> Policy:
    """What is evaluated: actions sampled from the softmax; value-based methods choose the best."""
    return Player(network, config)


if __name__ == "__main__":
    main("a3c", Config, train)
