"""REINFORCE: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", Machine Learning 8,
1992.

The episodic rule of section 5, equation 11, as it stands there: after each episode every weight moves by alpha (r - b) sum_t e(t). r is
the whole return, one number for all steps: no discount, no reward-to-go, no value function. e(t) is the gradient of the
log-probability of the action at t, and b the mean of earlier returns. Plain ascent, one update an episode.

The variant `reward_to_go` is what tutorials call REINFORCE, `no_baseline` has b = 0. `paper.yaml` beside this file lists every constant
with its source. Not in this file: environments (common/environments/vector.py), evaluation and checkpoints (common/evaluation, common/runs).

Units: an agent step is one decision; an update is one episode.

    ./run python -m replications.reinforce.train --task cartpole --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from common.environments.make import make_envs
from common.evaluation.protocol import Policy
from common.learning.layers import flatten_parameters
from common.runs.command_line import main
from common.runs.progress import Progress
from common.runs.run import Run

DEVICE = "cpu"  # one small network asked for one state at a time: a GPU would wait

# --- constants ---


@dataclass(frozen=True)
class Config:
    """The paper fixes the rule and no number; these are ours, and paper.yaml says so."""

    training_steps: int = 300_000  # agent steps
    stack: int = 1  # observations that make a state
    hidden_units: int = 32  # tanh units of the one hidden layer

    learning_rate: float = 0.00001  # alpha
    optimiser: Literal["ascent", "adam"] = "ascent"  # plain stochastic ascent; section 4
    baseline: bool = True  # False: b = 0
    baseline_decay: float = 0.9  # of the mean of earlier returns, b <- decay b + (1 - decay) r; section 4
    reward_to_go: bool = False  # True: each action is weighted by what comes after it; a hint in section 5
    discount: float = 1.0  # of rewards; 1: none, as in section 5
    normalise: bool = False  # True: an episode's weights to mean 0 and standard deviation 1; not in the paper

    log_period: int = 10_000  # agent steps between rows of the learning curve


CURVE = ("baseline", "variance_with_baseline", "variance_without_baseline")

# --- network ---


class Heads(NamedTuple):
    """outputs: (B, A) logits; values: (B,), the baseline, the same for all states."""

    outputs: torch.Tensor
    values: torch.Tensor


class Network(nn.Module):
    """A softmax over actions on one hidden layer; weights U(-1/sqrt(fan_in), 1/sqrt(fan_in)). baseline: the mean of earlier returns."""

    def __init__(self, num_actions: int, inputs: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, num_actions)
        )
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, states: torch.Tensor) -> Heads:
        """states: (B, stack, inputs) float32."""
        logits = self.layers(states)
        return Heads(logits, self.baseline.expand(len(logits)))


def make_network(config: Config, envs) -> nn.Module:
    """The network for these environments' observations and actions."""
    return Network(envs.num_actions, config.stack * int(np.prod(envs.obs_shape)), config.hidden_units)


# --- learning rule ---


def weights_of_actions(rewards: np.ndarray, baseline: float, config: Config) -> np.ndarray:
    """What stands before each action's eligibility, (T,) -> (T,).

    The paper: r - b for all of them alike, r the sum of all rewards. reward_to_go: sum_k>=t discount^(k-t) r_k - b.
    """
    if not config.reward_to_go:
        return np.full(len(rewards), rewards.sum() - baseline)
    returns, following = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        returns[t] = following = rewards[t] + config.discount * following
    returns -= baseline
    if config.normalise:
        returns = (returns - returns.mean()) / (returns.std() + 1e-8)
    return returns


def weighted_log_probability(heads: Heads, actions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum_t weight_t ln pi(a_t | s_t), whose gradient is sum_t weight_t e(t). A sum: a mean would weigh steps of long episodes less."""
    logs = heads.outputs.log_softmax(dim=1).gather(1, actions.unsqueeze(1)).squeeze(1)
    return (weights * logs).sum()


class Variances(nn.Module):
    """The trace of the covariance of (r - b) sum_t e(t), with the baseline and without it, over the episodes since it was last taken.

    The policy moves a little in that time; both are measured on the same episodes.
    """

    def __init__(self, size: int):
        super().__init__()
        for name, shape in (("sums", (2, size)), ("squares", (2,)), ("count", ())):
            self.register_buffer(name, torch.zeros(shape))

    def add(self, eligibility: torch.Tensor, score: float, baseline: float) -> None:
        """eligibility: sum_t e(t), flat."""
        for row, factor in enumerate((score - baseline, score)):
            self.sums[row] += factor * eligibility
            self.squares[row] += factor**2 * (eligibility @ eligibility)
        self.count += 1

    def take(self) -> list[float]:
        """Both, and begin anew; 0 where fewer than two episodes ended."""
        n = max(float(self.count), 1.0)
        found = (self.squares / n - (self.sums / n).pow(2).sum(dim=1)).clamp(min=0).tolist()
        for part in self.buffers():
            part.zero_()
        return found


class Episode:
    """What an episode held so far: observations, actions, rewards. Part of a checkpoint."""

    def __init__(self, obs_shape: tuple[int, ...]):
        self.shape = obs_shape
        self.clear()

    def clear(self) -> None:
        self.states, self.actions, self.rewards = [], [], []

    def state_dict(self) -> dict:
        states = np.array(self.states, dtype=np.float32).reshape(-1, *self.shape)
        return {"states": states, "actions": list(self.actions), "rewards": list(self.rewards)}

    def load_state_dict(self, state: dict) -> None:
        self.states = list(np.asarray(state["states"], dtype=np.float32))
        self.actions, self.rewards = [int(a) for a in state["actions"]], [float(r) for r in state["rewards"]]


def sample(logits: torch.Tensor, rng: np.random.Generator) -> int:
    """An action from the softmax of (1, A)."""
    policy = logits[0].double().softmax(dim=0).numpy()
    return min(int((policy.cumsum() <= rng.random()).sum()), len(policy) - 1)


# --- training ---


def train(config: Config, run: Run) -> None:
    c, rng = config, np.random.default_rng(run.seed)
    envs = make_envs(c, run.task, 1, run.seed)
    net = make_network(c, envs)
    weights, gradient = flatten_parameters(net)
    adam = torch.optim.Adam([weights], lr=c.learning_rate) if c.optimiser == "adam" else None
    episode, variances, state = Episode(envs.obs_shape), Variances(len(weights)), torch.zeros(envs.obs_shape)
    loss_sum = torch.zeros(())
    parts = {"adam": adam} if adam else {}
    progress = Progress()
    if not run.resume(
        progress, rng=rng, envs=envs, net=net, episode=episode, variances=variances, state=state, loss_sum=loss_sum, **parts
    ):  # fmt: skip
        state.copy_(torch.from_numpy(envs.reset()[0]))

    for _ in run.steps(progress):
        # Each unit draws its output from its distribution; the environment answers
        with torch.no_grad():
            action = sample(net(state[None, None]).outputs, rng)
        progress.advance(1)
        step = envs.step(np.array([action]))
        episode.states.append(state.numpy().copy())
        episode.actions.append(action)
        episode.rewards.append(float(step.rewards[0]))
        state.copy_(torch.from_numpy(step.obs[0]))
        if step.done[0]:
            run.log_episodes(progress, step)
            baseline = float(net.baseline) if c.baseline else 0.0
            states = torch.from_numpy(np.array(episode.states))[:, None]
            actions, rewards = torch.tensor(episode.actions), np.array(episode.rewards)
            factors = torch.from_numpy(weights_of_actions(rewards, baseline, c).astype(np.float32))
            gradient.zero_()
            if c.reward_to_go:
                weighted_log_probability(net(states), actions, factors).backward()
            else:  # sum_t e(t), then times r - b
                weighted_log_probability(net(states), actions, torch.ones(len(actions))).backward()
                variances.add(gradient, float(rewards.sum()), float(net.baseline))
                gradient.mul_(factors[0])
            with torch.no_grad():
                if adam:
                    weights.grad = gradient.neg()
                    adam.step()
                else:
                    weights.add_(gradient, alpha=c.learning_rate)
                # The mean of returns learns of this one only now: b may not know of it
                net.baseline.mul_(c.baseline_decay).add_((1 - c.baseline_decay) * float(rewards.sum()))
            loss_sum += float(gradient.norm())
            run.check_finite(loss_sum, progress)
            progress.updates += 1
            episode.clear()
            state.copy_(torch.from_numpy(envs.reset_where(step.done)[0]))

        if progress.times_due(c.log_period):
            updates = max(progress.updates - progress.updates_logged, 1)
            columns = {"baseline": float(net.baseline), "gradient_norm": float(loss_sum) / updates}
            if not c.reward_to_go:
                columns |= dict(zip(CURVE[1:], variances.take(), strict=True))
            run.log_phase(progress, None, **columns)
            loss_sum.zero_()
            progress.updates_logged = progress.updates

    run.finish(progress, net)


# --- evaluation and command line ---


def make_policy(net: nn.Module, config: Config) -> Policy:
    """What is evaluated: the most probable action."""

    @torch.no_grad()
    def policy(states: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        return net(torch.from_numpy(states)).outputs.argmax(dim=1).numpy()

    return policy


if __name__ == "__main__":
    main("reinforce", Config, train)
