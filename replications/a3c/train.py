"""Asynchronous advantage actor-critic (A3C): Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", ICML 2016.

This is DQN (2015) without a replay memory. Instead, several actor-learners, each a process with a game of its own, update one
set of shared parameters without locks: every few steps each takes the parameters as they are, plays on, and applies the sum of
its gradients through an RMSProp whose statistics are shared too. The policy is a softmax, and a value function that stands on
the same layers is its baseline. The network is the smaller one of 2013. The paper's other asynchronous methods are variants:
an LSTM, n-step Q, 1-step Q and 1-step Sarsa.
`paper.yaml` beside this file lists every constant with its source, and every point where this script differs from the paper.

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

from common.environments.atari import AtariEnvs, FrameStack
from common.environments.vector import GymEnvs, ReplayableEnvs
from common.errors import UserError
from common.evaluation.protocol import Policy, load_weights
from common.learning.layers import ByteConv2d, flatten_parameters
from common.learning.workers import Workers, share_parameters, shared
from common.papers import Task
from common.runs.command_line import main
from common.runs.run import Run

DEVICE = "cpu"  # workers are processes of the CPU, as in the paper

# --- constants ---

CURVE = ("entropy", "policy_loss", "value_loss")  # means per agent step since the last evaluation phase
FINAL_EXPLORATION = (
    (0.1, 0.4),
    (0.01, 0.3),
    (0.5, 0.3),
)  # value-based methods: epsilon, and how likely a worker draws it; s. 8


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's ("s. 8" is its section 8, experimental setup); "e-mail" is what its authors wrote afterwards."""

    training_steps: int = 80_000_000  # agent steps of all workers (320M frames)
    workers: int = 16  # processes; s. 8. Fewer on a machine with fewer cores, see `fit_to_machine`
    frame_skip: int = 4  # frames per agent step; s. 8
    stack: int = 4  # frames; Mnih et al. 2015
    noop_max: int = 30  # frames; Mnih et al. 2015
    max_frames: int = 108_000  # frames after which an episode is cut (30 minutes); van Hasselt et al. 2016
    preprocessing: Literal["nature", "ale"] = (
        "nature"  # Mnih et al. 2015; "ale" is faster and not the paper's
    )
    life_loss_terminal: bool = True  # Mnih et al. 2015
    reward_clip: float = 1.0  # raw score; Mnih et al. 2015

    algorithm: Literal["a3c", "n_step_q", "one_step_q", "one_step_sarsa"] = "a3c"  # s. 4
    network: Literal["mnih2013", "mlp"] = "mnih2013"  # s. 8; "mlp" for vector observations
    lstm: bool = False  # 256 cells after the last hidden layer; s. 8
    rollout: int = 5  # agent steps of a worker per update: t_max and I_AsyncUpdate; s. 8
    discount: float = 0.99  # s. 8
    entropy_weight: float = 0.01  # beta; s. 8
    value_gradient: float = 0.5  # times (V - R); e-mail. The paper's formula d(R - V)^2 would be 2
    learning_rate: float = (
        0.0007  # for gradients summed over the rollout, falls to 0; s. 8 draws it from [1e-4, 1e-2]; e-mail
    )
    squared_gradient_decay: float = 0.99  # alpha; s. 8
    min_squared_gradient: float = 0.1  # inside the root; e-mail
    max_gradient_norm: float = 40.0  # e-mail

    target_period: int = 10_000  # agent steps (40,000 frames), value-based methods; s. 8
    initial_exploration: float = 1.0  # epsilon, value-based methods; s. 8
    final_exploration_step: int = 1_000_000  # agent steps (4M frames), value-based methods; s. 8

    evaluation_period: int = (
        250_000  # agent steps between evaluation phases (1M frames); Fortunato et al. 2018
    )
    evaluation_steps: int = 125_000  # agent steps of a phase (500,000 frames); Fortunato et al. 2018
    evaluation_epsilon: float = 0.0  # the policy is sampled; value-based methods choose greedily


def fit_to_machine(config: Config) -> dict:
    """The settings that this machine asks for: a worker needs a core of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"workers": min(config.workers, cores)}


# --- network ---


class Network(nn.Module):
    """s. 8: 16 8x8 stride 4, 32 4x4 stride 2, 256 units, optionally 256 LSTM cells; a softmax policy and a linear value on top.

    Value-based methods have one output, the action values, in the policy's place. PyTorch's default initialisation,
    U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases, is that of the authors' Torch.
    """

    def __init__(self, config: Config, num_actions: int, obs_shape: tuple[int, ...]):
        super().__init__()
        if config.network == "mlp":
            units, inputs = 128, config.stack * int(np.prod(obs_shape))
            self.torso = nn.Sequential(nn.Flatten(), nn.Linear(inputs, units), nn.ReLU())
        else:
            units = 256
            self.torso = nn.Sequential(
                ByteConv2d(config.stack, 16, 8, stride=4), nn.ReLU(),
                nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(),
                nn.Flatten(),
                nn.Linear(2592, units), nn.ReLU(),
            ).to(memory_format=torch.channels_last)  # the same numbers up to rounding, faster  # fmt: skip
        self.lstm = nn.LSTM(units, 256) if config.lstm else None
        self.policy = nn.Linear(256 if config.lstm else units, num_actions)
        self.value = nn.Linear(self.policy.in_features, 1) if config.algorithm == "a3c" else None

    def forward(self, states: torch.Tensor, hidden: torch.Tensor | None = None, sequence: bool = False):
        """states: (B, stack, 84, 84) uint8 or (B, stack, inputs) float32; hidden: (2, N, 256), h and c of the LSTM before them.

        sequence: the B states follow each other in one environment (N = 1); else each has an environment of its own (N = B).
        Returns logits or action values (B, A), state values (B,) or None, and hidden after the states.
        """
        x = self.torso(states)
        if self.lstm is not None:
            x, (h, c) = self.lstm(x.unsqueeze(1 if sequence else 0), (hidden[:1], hidden[1:]))
            x, hidden = x.squeeze(1 if sequence else 0), torch.cat([h, c])
        return self.policy(x), None if self.value is None else self.value(x).squeeze(1), hidden


def zero_hidden(config: Config, num_envs: int = 1) -> torch.Tensor | None:
    return torch.zeros(2, num_envs, 256) if config.lstm else None


# --- learning rule ---


def n_step_returns(rewards: torch.Tensor, bootstrap: float, discount: float) -> torch.Tensor:
    """Algorithms S2 and S3: R <- r_i + discount R, backwards from R = bootstrap (0 after a terminal state). (T,) -> (T,)."""
    returns = torch.empty_like(rewards)
    for i in reversed(range(len(rewards))):
        bootstrap = returns[i] = rewards[i] + discount * bootstrap
    return returns


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


def one_step_targets(
    rewards: torch.Tensor,
    next_values: torch.Tensor,
    next_actions: torch.Tensor,
    terminal: bool,
    config: Config,
) -> torch.Tensor:
    """Algorithm S1: r + discount max_a' Q(s', a'; theta-), for Sarsa with the a' taken next; r where the episode ended.

    rewards (T,), next_values (T, A) of the target network, next_actions (T,) int64 -> (T,). Only the last can be terminal.
    """
    if config.algorithm == "one_step_sarsa":
        bootstrap = next_values.gather(1, next_actions.unsqueeze(1)).squeeze(1)
    else:
        bootstrap = next_values.amax(dim=1)
    if terminal:
        bootstrap[-1] = 0
    return rewards + config.discount * bootstrap


def q_loss(values: torch.Tensor, actions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Algorithms S1 and S2: the sum of (target - Q(s, a; theta))^2, the error not clipped. (T, A), (T,), (T,) -> scalar."""
    return (targets - values.gather(1, actions.unsqueeze(1)).squeeze(1)).square().sum()


def learning_rate(step: int, config: Config) -> float:
    """Linear to 0 over the training, by the agent steps of all workers."""
    return config.learning_rate * max(1 - step / config.training_steps, 0.0)


def exploration(step: int, final: float, config: Config) -> float:
    """epsilon of a worker whose final one is `final`, at an agent step of all workers; value-based methods."""
    progress = min(step / config.final_exploration_step, 1.0)
    return config.initial_exploration + progress * (final - config.initial_exploration)


class SharedRMSProp:
    """s. 4, "Optimization": not centred, statistics shared by all workers, no locks. With d a worker's summed gradient,

    s <- .99 s + .01 d^2;  w <- w - learning_rate d / sqrt(s + .1).
    """

    def __init__(self, weights: torch.Tensor, config: Config):
        self.weights, self.mean_square = weights, shared(len(weights))
        self.root = torch.empty_like(weights)  # each process has a copy of its own once forked
        self.config = config

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, learning_rate: float) -> None:
        """gradient: (P,), of one worker; it is clipped in place to a global norm of 40."""
        c = self.config
        norm = float(gradient.norm())
        if norm > c.max_gradient_norm:
            gradient.mul_(c.max_gradient_norm / norm)
        self.mean_square.mul_(c.squared_gradient_decay).addcmul_(
            gradient, gradient, value=1 - c.squared_gradient_decay
        )
        torch.add(self.mean_square, c.min_squared_gradient, out=self.root).sqrt_()
        self.weights.addcdiv_(gradient, self.root, value=-learning_rate)


# --- an actor-learner: Algorithms S1 (1-step), S2 (n-step Q), S3 (A3C) ---


class Global:
    """What the workers share: theta, theta-, the statistics of RMSProp, and counters of which each worker writes its own row."""

    def __init__(self, config: Config, num_actions: int, obs_shape: tuple[int, ...]):
        self.network, self.target = (Network(config, num_actions, obs_shape) for _ in range(2))
        self.weights, self.target_weights = share_parameters(self.network), share_parameters(self.target)
        self.target_weights.copy_(self.weights)
        self.optimiser = SharedRMSProp(self.weights, config)
        self.counts = shared(config.workers, 2, dtype=torch.int64)  # agent steps, updates
        self.sums = shared(config.workers, 4, dtype=torch.float64)  # policy loss, value loss, entropy, loss
        self.target_copies = shared(1, dtype=torch.int64)

    def agent_steps(self) -> int:
        """The paper's T."""
        return int(self.counts.numpy()[:, 0].sum())


class ActorLearner:
    """One worker: its game, its copy theta' of the parameters, its LSTM's state."""

    def __init__(self, index: int, config: Config, task: Task, seed: int, everyone: Global):
        own = np.random.SeedSequence((seed, 0xA3C, index))
        self.index, self.config, self.everyone = index, config, everyone
        self.rng = np.random.default_rng(own)
        self.envs = make_envs(config, task, 1, int(own.generate_state(1)[0] >> 1))
        self.network = Network(config, self.envs.num_actions, self.envs.obs_shape)
        self.weights, self.gradient = flatten_parameters(self.network)
        self.stack = FrameStack(1, config.stack, self.envs.obs_shape, self.envs.obs_dtype)
        self.stack.begin_episodes(self.envs.reset(), np.ones(1, dtype=bool))
        self.hidden = zero_hidden(config)
        epsilons, likely = zip(*FINAL_EXPLORATION, strict=True)
        self.final_exploration = float(self.rng.choice(epsilons, p=likely))
        self.next_action: int | None = None  # Sarsa has chosen it already
        shape = (config.rollout + 1, *self.stack.planes.shape[1:])
        self.states = torch.from_numpy(np.zeros(shape, self.envs.obs_dtype))

    def wants(self, until: int) -> bool:
        return self.everyone.agent_steps() < until

    @torch.no_grad()
    def act(self) -> int:
        """An action in the current state, from theta'; moves the LSTM's state on."""
        outputs, _, self.hidden = self.network(torch.from_numpy(self.stack.planes), self.hidden)
        if self.config.algorithm == "a3c":
            return int(sample(outputs, [self.rng])[0])
        epsilon = exploration(self.everyone.agent_steps(), self.final_exploration, self.config)
        explore, action = self.rng.random() < epsilon, int(self.rng.integers(outputs.shape[1]))
        return action if explore else int(outputs.argmax())

    def work(self) -> list[tuple[int, float, int]]:
        """One rollout and one update; returns (T, raw score, agent steps) of an episode that ended with it."""
        c, everyone = self.config, self.everyone
        # Synchronise thread-specific parameters theta' = theta; reset gradients d theta <- 0
        self.weights.copy_(everyone.weights)
        self.gradient.zero_()
        hidden = self.hidden  # at the start of the rollout: gradients do not flow back beyond it
        actions, rewards, terminal, done = [], [], False, False
        # repeat: perform a_t according to policy pi(a_t|s_t; theta'), until terminal s_t or t - t_start == t_max
        while not (terminal or done) and len(actions) < c.rollout:
            self.states[len(actions)] = torch.from_numpy(self.stack.planes[0])
            actions.append(self.act() if self.next_action is None else self.next_action)
            step = self.envs.step(np.array(actions[-1:]))
            rewards.append(float(step.rewards.clip(-c.reward_clip, c.reward_clip)[0]))
            self.stack.push(step.obs)
            terminal = bool(step.game_over[0] or (step.life_lost[0] and c.life_loss_terminal))
            done = bool(step.done[0])
            # Sarsa chooses a' in s' now: it is in the target, and is performed next
            self.next_action = self.act() if c.algorithm == "one_step_sarsa" and not terminal else None
        n = len(actions)
        self.states[n] = torch.from_numpy(self.stack.planes[0])

        *parts, loss = self.losses(n, torch.tensor(actions), torch.tensor(rewards), hidden, terminal)
        loss.backward()
        # Perform asynchronous update of theta using d theta; T <- T + n
        everyone.optimiser.step(self.gradient, learning_rate(everyone.agent_steps(), c))
        everyone.sums[self.index] += torch.stack([*parts, loss]).detach()
        everyone.counts[self.index] += torch.tensor([n, 1])
        # if T mod I_target == 0: theta- <- theta
        copies = everyone.agent_steps() // c.target_period
        if c.algorithm != "a3c" and copies > int(everyone.target_copies):
            everyone.target_copies.fill_(copies)
            everyone.target_weights.copy_(everyone.weights)

        if not done:
            return []
        self.next_action, self.hidden = None, zero_hidden(c)
        self.stack.begin_episodes(self.envs.reset_where(step.done), step.done)
        return [(everyone.agent_steps(), float(step.scores[0]), int(step.lengths[0]))]

    def losses(
        self,
        n: int,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        hidden: torch.Tensor | None,
        terminal: bool,
    ) -> tuple[torch.Tensor, ...]:
        """Policy loss, value loss, entropy, and the loss to descend, of the n steps in `self.states`; hidden: before them."""
        c, after = self.config, self.states[n : n + 1]
        if c.algorithm == "a3c":
            # R = 0 for terminal s_t, V(s_t; theta') otherwise; the LSTM's state is not advanced
            with torch.no_grad():
                bootstrap = 0.0 if terminal else float(self.network(after, self.hidden)[1])
            logits, values, _ = self.network(self.states[:n], hidden, sequence=True)
            returns = n_step_returns(rewards, bootstrap, c.discount)
            policy_loss, value_loss, entropy = a3c_losses(logits, values, actions, returns, c)
            return policy_loss, value_loss, entropy, policy_loss + value_loss - c.entropy_weight * entropy
        with torch.no_grad():
            if c.algorithm == "n_step_q":
                # R = 0 for terminal s_t, max_a Q(s_t, a; theta-) otherwise
                bootstrap = 0.0 if terminal else float(self.everyone.target(after)[0].max())
                targets = n_step_returns(rewards, bootstrap, c.discount)
            else:
                next_values = self.everyone.target(self.states[1 : n + 1])[0]
                next_actions = torch.cat([actions[1:], torch.tensor([self.next_action or 0])])
                targets = one_step_targets(rewards, next_values, next_actions, terminal, c)
        loss = q_loss(self.network(self.states[:n])[0], actions, targets)
        return torch.zeros(()), loss, torch.zeros(()), loss

    def state_dict(self) -> dict:
        return {
            "envs": self.envs.state_dict(), "rng": self.rng.bit_generator.state, "planes": self.stack.planes.copy(),
            "hidden": None if self.hidden is None else self.hidden.numpy(), "next_action": self.next_action,
            "final_exploration": self.final_exploration,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self.envs.load_state_dict(state["envs"])
        self.rng.bit_generator.state = state["rng"]
        self.stack.planes[:] = state["planes"]
        self.hidden = None if state["hidden"] is None else torch.as_tensor(state["hidden"])
        self.next_action, self.final_exploration = state["next_action"], state["final_exploration"]


# --- training ---


@dataclass
class Progress:
    """All that is counted; part of every checkpoint."""

    agent_steps: int = 0
    updates: int = 0
    episodes: int = 0
    target_copies: int = 0
    agent_steps_logged: int = 0  # agent steps at the last evaluation phase
    evaluations: int = 0
    best_score: float | None = None
    best_agent_step: int = 0


def make_envs(config: Config, task: Task, num_envs: int, seed: int, **options) -> ReplayableEnvs:
    if task.kind == "gym":
        return GymEnvs(task.env_id, num_envs, seed)
    return AtariEnvs(
        task.game, num_envs, seed=seed, frame_skip=config.frame_skip, noop_max=config.noop_max,
        preprocessing=config.preprocessing, **({"max_frames": config.max_frames, "threads": 1} | options),
    )  # fmt: skip


def train(config: Config, run: Run) -> None:
    c = config
    if c.lstm and c.algorithm != "a3c":
        raise UserError(f"lstm and algorithm {c.algorithm!r} do not go together; the paper's LSTM is a3c's")
    torch.set_num_threads(1)  # in this process, which evaluates while the workers rest, and in each worker
    probe = make_envs(c, run.task, 1, run.seed)
    num_actions, obs_shape = probe.num_actions, probe.obs_shape
    probe.close()
    # Globally shared parameter vectors theta (and theta-), counter T = 0
    everyone = Global(c, num_actions, obs_shape)
    best = Network(c, num_actions, obs_shape)
    at = Progress()
    with Workers(c.workers, lambda i: ActorLearner(i, c, run.task, run.seed, everyone)) as workers:
        run.resume(
            at=at, network=everyone.network, target=everyone.target, best=best, counts=everyone.counts,
            mean_square=everyone.optimiser.mean_square, loss_sum=everyone.sums, copies=everyone.target_copies,
            workers=workers,
        )  # fmt: skip

        def episode_ended(news: tuple[int, float, int]) -> None:
            at.agent_steps = max(at.agent_steps, news[0])
            at.episodes += run.log_episode(at, *news[1:])

        while True:
            if at.agent_steps // c.evaluation_period > at.evaluations:  # all workers rest
                scores = run.evaluate(Actor(everyone.network, c), at)
                if len(scores) and (at.best_score is None or scores.mean() > at.best_score):
                    at.best_score, at.best_agent_step = float(scores.mean()), at.agent_steps
                    best.load_state_dict(everyone.network.state_dict())
                sums = everyone.sums.sum(0) / max(at.agent_steps - at.agent_steps_logged, 1)
                row = dict(zip(("policy_loss", "value_loss", "entropy", "loss"), sums.tolist(), strict=True))
                run.log_phase(at, scores, learning_rate=learning_rate(at.agent_steps, c), **row)
                everyone.sums.zero_()
                at.agent_steps_logged, at.evaluations = at.agent_steps, at.agent_steps // c.evaluation_period
            run.tick(at)
            if at.agent_steps >= c.training_steps or run.reached(at):
                break

            # All workers play and learn, until an evaluation phase is due or some seconds have passed
            until = min((at.evaluations + 1) * c.evaluation_period, c.training_steps)
            workers.run(until, run.seconds_between_ticks, run.interrupted, episode_ended)
            at.agent_steps, at.updates = everyone.agent_steps(), int(everyone.counts[:, 1].sum())
            at.target_copies = int(everyone.target_copies)

    run.finish(at, best if at.best_score is not None else everyone.network)


# --- evaluation and command line ---


def sample(logits: torch.Tensor, rngs: list[np.random.Generator]) -> np.ndarray:
    """One action from each row's softmax, with that row's generator. (N, A) -> (N,) int64."""
    outputs = logits.cpu().numpy()
    sums = np.exp(outputs - outputs.max(axis=1, keepdims=True), dtype=np.float64).cumsum(axis=1)
    drawn = np.array([rng.random() for rng in rngs])
    return (sums <= drawn[:, None] * sums[:, -1:]).sum(axis=1)


class Actor:
    """The policy of a network: sampled from its softmax; value-based methods choose the best action."""

    def __init__(self, network: Network, config: Config, device: torch.device | str = "cpu"):
        self.network, self.config, self.device = network, config, device
        self.hidden: torch.Tensor | None = None

    def start(self, begins: np.ndarray) -> None:
        """Episodes begin in the masked environments (N,): their LSTM's state is zero."""
        if self.config.lstm:
            if self.hidden is None or self.hidden.shape[1] != len(begins):
                self.hidden = zero_hidden(self.config, len(begins)).to(self.device)
            self.hidden[:, torch.from_numpy(begins)] = 0

    @torch.no_grad()
    def __call__(self, states: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        outputs, _, self.hidden = self.network(torch.from_numpy(states).to(self.device), self.hidden)
        return (
            sample(outputs, rngs) if self.config.algorithm == "a3c" else outputs.argmax(dim=1).cpu().numpy()
        )


def load_policy(
    config: Config, num_actions: int, obs_shape: tuple[int, ...], weights: dict, device: torch.device
) -> Policy:
    """The policy of trained weights (tensors by parameter name); raises ValueError when they do not fit the network."""
    network = Network(config, num_actions, obs_shape).to(device)
    load_weights(network, weights)
    return Actor(network, config, device)


if __name__ == "__main__":
    main("a3c", Config, train)
