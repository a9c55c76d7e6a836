"""DDPG's update written out again, in float64: formulas of batch normalisation and Adam, none of PyTorch's layers."""

from __future__ import annotations

import numpy as np
import torch

from replications.ddpg.train import Config

Tensors = dict[str, torch.Tensor]


def doubles(nets: torch.nn.Module) -> Tensors:
    return {n: t.detach().double().clone() for n, t in nets.state_dict().items() if t.is_floating_point()}


class Twin:
    """The networks that learn, those that are bootstrapped from, and Adam's moments, by parameter name."""

    def __init__(self, nets: torch.nn.ModuleDict, targets: torch.nn.ModuleDict, config: Config):
        self.config, self.net, self.target = config, doubles(nets), doubles(targets)
        self.trained = [name for name, _ in nets.named_parameters()]
        self.moments = {
            n: (torch.zeros_like(self.net[n]), torch.zeros_like(self.net[n])) for n in self.trained
        }
        self.steps = {"actor": 0, "critic": 0}

    def norm(
        self, t: Tensors, name: str, x: torch.Tensor, batch: bool, moved: Tensors | None
    ) -> torch.Tensor:
        """(x - mean) / sqrt(variance + 1e-5) weight + bias; `moved` takes the running moments, a tenth of this minibatch's."""
        if not self.config.batch_norm:
            return x
        if not batch:
            mean, variance = t[f"{name}.running_mean"], t[f"{name}.running_var"]
        else:
            mean = x.mean(0)
            variance = ((x - mean) ** 2).mean(0)
            if moved is not None:
                unbiased = variance * len(x) / (len(x) - 1)
                for what, new in (("mean", mean), ("var", unbiased)):
                    moved[f"{name}.running_{what}"] = 0.9 * t[f"{name}.running_{what}"] + 0.1 * new.detach()
        return (x - mean) / torch.sqrt(variance + 1e-5) * t[f"{name}.weight"] + t[f"{name}.bias"]

    def actor(self, t: Tensors, s: torch.Tensor, batch: bool, moved: Tensors | None = None) -> torch.Tensor:
        x = self.norm(t, "actor.layers.1", s.flatten(1), batch, moved)
        for linear, norm in ((2, 3), (5, 6)):
            x = x @ t[f"actor.layers.{linear}.weight"].T + t[f"actor.layers.{linear}.bias"]
            x = self.norm(t, f"actor.layers.{norm}", x, batch, moved).clamp(min=0)
        return torch.tanh(x @ t["actor.layers.8.weight"].T + t["actor.layers.8.bias"])

    def critic(
        self, t: Tensors, s: torch.Tensor, a: torch.Tensor, batch: bool, moved: Tensors | None = None
    ) -> torch.Tensor:
        x = self.norm(t, "critic.first.1", s.flatten(1), batch, moved)
        x = x @ t["critic.first.2.weight"].T + t["critic.first.2.bias"]
        x = self.norm(t, "critic.first.3", x, batch, moved).clamp(min=0)
        x = (torch.cat([x, a], 1) @ t["critic.second.weight"].T + t["critic.second.bias"]).clamp(min=0)
        return (x @ t["critic.value.weight"].T + t["critic.value.bias"])[:, 0]

    def adam(self, who: str, loss: torch.Tensor, decay: float, rate: float) -> None:
        self.steps[who] += 1
        names = [name for name in self.trained if name.startswith(who)]
        gradients = torch.autograd.grad(loss, [self.net[name] for name in names])
        for name, d in zip(names, gradients, strict=True):
            m, v = self.moments[name]
            d = d + decay * self.net[name].detach()
            m, v = 0.9 * m + 0.1 * d, 0.999 * v + 0.001 * d**2
            self.moments[name] = m, v
            k = self.steps[who]
            step = rate * (m / (1 - 0.9**k)) / (torch.sqrt(v / (1 - 0.999**k)) + 1e-8)
            self.net[name] = self.net[name].detach() - step

    def update(self, s, a, r, s2, end) -> tuple[float, float]:
        """The critic's loss and the mean of Q(s, mu(s)). All double but `end`."""
        c, moved = self.config, {}
        before = self.target if c.target_network else self.net
        y = r + c.discount * self.critic(before, s2, self.actor(before, s2, True), True) * (~end).double()
        for name in self.trained:
            self.net[name] = self.net[name].requires_grad_()
        loss = ((y.detach() - self.critic(self.net, s, a, True, moved)) ** 2).mean()
        self.adam("critic", loss, c.weight_decay, c.critic_learning_rate)
        self.net |= moved
        moved = {}
        value = self.critic(self.net, s, self.actor(self.net, s, True, moved), True).mean()
        self.adam("actor", -value, 0.0, c.actor_learning_rate)
        self.net |= moved
        self.net = {name: tensor.detach() for name, tensor in self.net.items()}
        for name in self.trained:
            self.target[name] = c.target_rate * self.net[name] + (1 - c.target_rate) * self.target[name]
        return loss.item(), value.item()


def tensors(rng: np.random.Generator, size: int, inputs: int, actions: int) -> list[torch.Tensor]:
    """A minibatch: states (B, 1, inputs) of very different scales, actions, rewards, next states, ends."""
    scale = np.array([0.1, 1.0, 30.0])[np.arange(inputs) % 3]
    s, s2 = (rng.normal(size=(size, 1, inputs)) * scale + scale for _ in range(2))
    rest = rng.uniform(-1, 1, (size, actions)), rng.normal(size=size) * 3, s2, rng.random(size) < 0.2
    return [torch.from_numpy(x) for x in (s, *rest)]
