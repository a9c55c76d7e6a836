"""How PPO's actors play: N environments, T agent steps each with one policy, and what is noted of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from common.environments.atari import FrameStack
from common.environments.vector import ReplayableEnvs
from common.runs.progress import Progress
from common.runs.run import Run
from replications.ppo.control import ControlNetwork, RewardScale, in_numpy, normaliser, observation_moments
from replications.ppo.policies import draw, sample


class Rollout(NamedTuple):
    """T agent steps of N actors under one policy, step by step, actors within a step.

    planes: stacked observations (T N, stack, ...). states: what the network was given of them. actions: (T N,) int64 or (T N, A)
    float32. outputs: logits or means (T N, A). rewards, ends: (T, N); values: (T + 1, N); see `gae` in train.py.
    """

    planes: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    outputs: np.ndarray
    rewards: np.ndarray
    values: np.ndarray
    ends: np.ndarray


@torch.no_grad()
def evaluated(forward: Callable, states: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (B, A) and values (B,) of states (B, ...)."""
    heads = forward(torch.from_numpy(states).to(device))
    return heads.outputs.cpu().numpy(), heads.values.cpu().numpy()


class Actors:
    """config: the script's. forward: the network as a function of tensors, perhaps a CUDA graph."""

    def __init__(self, config: Any, envs: ReplayableEnvs, net: nn.Module, forward: Callable):
        self.config, self.envs, self.net, self.forward = config, envs, net, forward
        self.device, self.on_vectors = next(net.parameters()).device, isinstance(net, ControlNetwork)
        self.stack = FrameStack.of(envs, config.stack)
        self.observed = observation_moments(config.observation_filter, self.stack.planes[0].size)
        self.scale = RewardScale(config.num_envs, config.discount)

    def policy(self) -> Callable[[np.ndarray], tuple]:
        """Stacked observations (N, ...) -> what the network is given of them, its outputs, its values (None: later)."""
        if not self.on_vectors:
            return lambda planes: (planes, *evaluated(self.forward, planes, self.device))
        normalised, outputs_of = normaliser(self.net), in_numpy(self.net)
        return lambda planes: ((states := normalised(planes)), outputs_of(states), None)

    def play(
        self, rng: np.random.Generator, log_std: torch.Tensor | None, run: Run, progress: Progress
    ) -> Rollout:
        """T agent steps of each actor with the policy of now; log_std: its own, where it has one."""
        c, envs, stack, pi_old = self.config, self.envs, self.stack, self.policy()
        drawn = draw(rng, (c.rollout_steps, c.num_envs), log_std)
        seen, said, actions, steps = [], [], [], []
        for t in range(c.rollout_steps):
            if c.observation_filter == "step":
                self.observed.update(stack.planes)
                self.observed.store(self.net)
                pi_old = self.policy()
            seen.append(stack.planes.copy())
            said.append(pi_old(seen[-1]))
            actions.append(sample(said[-1][1], drawn[t]))
            step = envs.step(actions[-1])
            steps.append(step)
            stack.push(step.obs)
            progress.advance(c.num_envs)
            if step.done.any():
                run.log_episodes(progress, step)
                stack.begin_episodes(envs.reset_where(step.done), step.done)
        said.append(pi_old(stack.planes))
        states, outputs, values = zip(*said, strict=True)
        states = np.concatenate(states)
        if self.on_vectors:  # once for the whole rollout: one by one they would take longer
            outputs, values = evaluated(self.net, states, self.device)
        else:
            outputs, values = np.concatenate(outputs), np.concatenate(values)
        rewards, done, lost = (
            np.stack([getattr(s, name) for s in steps]) for name in ("rewards", "done", "life_lost")
        )
        if c.reward_clip:
            rewards = rewards.clip(-c.reward_clip, c.reward_clip)
        if c.normalise_rewards:
            rewards = self.scale.scaled(rewards, done)
        return Rollout(
            np.concatenate(seen), states[: -c.num_envs], np.concatenate(actions), outputs[: -c.num_envs], rewards,
            values.reshape(-1, c.num_envs), done | (lost & c.life_loss_terminal),
        )  # fmt: skip

    def filtered(self, rollout: Rollout) -> Rollout:
        """The rollout under moments that have seen it, where they move once an iteration: pi_old is what its weights mean then."""
        if self.config.observation_filter != "iteration":
            return rollout
        self.observed.update(rollout.planes)
        self.observed.store(self.net)
        states = self.net.normalised(rollout.planes)
        return rollout._replace(states=states, outputs=evaluated(self.net, states, self.device)[0])

    def reset(self) -> None:
        self.stack.begin_episodes(self.envs.reset(), np.ones(self.config.num_envs, dtype=bool))

    def state_dict(self) -> dict:
        """Of all but the environments."""
        return {name: getattr(self, name).state_dict() for name in ("stack", "observed", "scale")}

    def load_state_dict(self, state: dict) -> None:
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)
