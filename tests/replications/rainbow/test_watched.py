"""A short real training of Rainbow, watched: every step of its algorithm is worked out again, with the noise that it drew."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from replications.rainbow import network
from tests.watched import Algorithm, Watched, check, clipped, gradient_of

SHORT = {
    "n_step": 3, "atoms": 11, "value_min": -3.0, "value_max": 4.0, "noisy_sigma": 0.4, "priority_exponent": 0.55,
    "importance_exponent": 0.35, "priority_floor": 0.07, "learning_rate": 0.003, "adam_epsilon": 0.01, "adam_beta1": 0.8,
    "adam_beta2": 0.95, "max_gradient_norm": 1.9,
}  # fmt: skip


class Noise:
    """Notes each forward pass of Rainbow's network and, layer by layer, the noise drawn for it."""

    def __init__(self, monkeypatch):
        self.passes, draw = [], torch.randn
        logits, forward = network.RainbowNetwork.logits, network.NoisyLinear.forward
        drawn = []

        def spied_randn(*shape, **options):
            drawn.append(draw(*shape, **options))
            return drawn[-1]

        def spied_logits(net, states):
            self.names = {id(layer): name for name, layer in net.named_modules()}
            one = SimpleNamespace(net=net, states=states.double().numpy().copy(), noise={})
            self.passes.append(one)
            return logits(net, states)

        def spied_forward(layer, x):
            drawn.clear()
            y = forward(layer, x)
            if drawn:
                self.passes[-1].noise[self.names[id(layer)]] = torch.cat([d.double() for d in drawn])
            return y

        monkeypatch.setattr(network.torch, "randn", spied_randn)
        monkeypatch.setattr(network.RainbowNetwork, "logits", spied_logits)
        monkeypatch.setattr(network.NoisyLinear, "forward", spied_forward)

    def __call__(self):
        passes, self.passes = self.passes, []
        return passes


def linear(w, x, name, noise):
    """Equation 4."""
    y = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    if not noise:
        return y
    inputs = x.shape[1]
    e = noise[name].sign() * noise[name].abs().sqrt()
    e_in, e_out = e[:inputs], e[inputs:]
    assert len(e_out) == len(y[0])
    return y + x @ (w[f"{name}.weight_sigma"] * torch.outer(e_out, e_in)).T + w[f"{name}.bias_sigma"] * e_out


def logits(c, w, x, noise):
    """(B, stack, size) -> (B, A, atoms)."""
    features = (x.flatten(1) @ w["torso.1.weight"].T + w["torso.1.bias"]).relu()

    def stream(name):
        hidden = linear(w, features, f"{name}.0", noise).relu()
        return linear(w, hidden, f"{name}.2", noise)

    advantage = stream("advantage").reshape(len(x), 4, -1)
    if not c.dueling:
        return advantage
    return stream("value").reshape(len(x), 1, -1) + advantage - advantage.mean(dim=1, keepdim=True)


def support(c):
    return torch.linspace(c.value_min, c.value_max, c.atoms, dtype=torch.float64)


def values(c, w, x, noise=None):
    out = logits(c, w, x, noise)
    return out.softmax(dim=2) @ support(c) if c.distributional else out[:, :, 0]


def shifted(c, returns, discounts, p):
    """Phi_z of R + discount z, an atom at a time."""
    z, out = support(c).numpy(), np.zeros((len(returns), c.atoms))
    spacing = (c.value_max - c.value_min) / (c.atoms - 1)
    for i, (r, discount) in enumerate(zip(returns, discounts, strict=True)):
        for j in range(c.atoms):
            place = (min(max(r + discount * z[j], c.value_min), c.value_max) - c.value_min) / spacing
            below = int(np.floor(place + 1e-9))
            above = min(below + 1, c.atoms - 1)
            out[i, below] += p[i, j] * (1 - (place - below))
            out[i, above] += p[i, j] * (place - below)
    return out


NORMS: list[float] = []  # of a training's gradients, before they are clipped


def gradient(c, w, target, batch, weights, passes):
    """The weighted mean over the minibatch of the divergence, or of the clipped error."""
    rows = torch.arange(len(batch.actions))
    actions, next_states = torch.from_numpy(batch.actions), torch.from_numpy(batch.next_states)
    alive = ~batch.terminals  # what follows an end means nothing
    of = [p for p in passes if np.array_equal(p.states[alive], batch.next_states[alive])]
    (learning,) = [p for p in passes if np.array_equal(p.states, batch.states) and p.of == "q"]
    (ahead,) = [p for p in of if p.of == "target"]
    (choosing,) = [p for p in of if p.of == "q"] if c.double else [ahead]
    assert len(passes) == 2 + c.double
    if c.noisy:  # each has noise of its own, in each layer
        layers = {name.removesuffix(".weight_sigma") for name in w if name.endswith("weight_sigma")}
        assert all(set(p.noise) == layers for p in passes)
        every = torch.cat([n for p in passes for n in p.noise.values()])
        assert len(every.unique()) > 0.99 * len(every)
    with torch.no_grad():
        after = logits(c, target, next_states, ahead.noise)
        chosen = values(c, w if c.double else target, next_states, choosing.noise).argmax(dim=1)
        after = after[rows, chosen]
    returns = sum(c.discount**k * batch.rewards[:, k] for k in range(c.n_step))
    discounts = np.where(batch.terminals, 0, c.discount**batch.steps)
    sizes = []

    def loss_of(leaves):
        out = logits(c, leaves, torch.from_numpy(batch.states), learning.noise)[rows, actions]
        if c.distributional:
            goal = torch.from_numpy(shifted(c, returns, discounts, after.softmax(dim=1).numpy()))
            cross_entropies = -(goal * out.log_softmax(dim=1)).sum(1)
            losses = cross_entropies + torch.special.xlogy(goal, goal).sum(1)
            sizes.append((losses if c.priority == "kl" else cross_entropies).detach().numpy())
        else:
            errors = torch.from_numpy(returns + discounts * after[:, 0].numpy()) - out[:, 0]
            losses = clipped(errors, c.error_clip)
            sizes.append(errors.detach().abs().numpy())
        return (torch.from_numpy(weights) * losses).sum() / len(losses)

    loss, d = gradient_of(w, loss_of)
    norm = np.sqrt(sum(float((tensor**2).sum()) for tensor in d.values()))
    NORMS.append(norm)
    return (
        loss.item(),
        {name: tensor * min(1, c.max_gradient_norm / norm) for name, tensor in d.items()},
        sizes[0],
    )


def adam(c):
    m, v, t = {}, {}, [0]

    def step(w, d):
        t[0] += 1
        after = {}
        for k in w:
            m[k] = c.adam_beta1 * m.get(k, 0) + (1 - c.adam_beta1) * d[k]
            v[k] = c.adam_beta2 * v.get(k, 0) + (1 - c.adam_beta2) * d[k] ** 2
            mean, square = m[k] / (1 - c.adam_beta1 ** t[0]), v[k] / (1 - c.adam_beta2 ** t[0])
            after[k] = w[k] - c.learning_rate * mean / (square.sqrt() + c.adam_epsilon)
        return after

    return step


RAINBOW = Algorithm(
    "rainbow", values, gradient, adam, priority=lambda c, sizes: sizes + c.priority_floor,
    prioritised=lambda c: "proportional" if c.prioritised else None,
    columns=("value_estimate", "beta"),
)  # fmt: skip
NO_EXPLORATION = {"initial_exploration": 0.0, "final_exploration": 0.0}
CASES = {
    "paper": NO_EXPLORATION,
    "lives go on, clipped at 2": NO_EXPLORATION
    | {"life_loss_terminal": False, "reward_clip": 2.0, "update_period": 2},
    "ce_priority": NO_EXPLORATION | {"priority": "cross_entropy"},
    "no_double": NO_EXPLORATION | {"double": False},
    "no_priority": NO_EXPLORATION | {"prioritised": False},
    "no_dueling": NO_EXPLORATION | {"dueling": False},
    "no_multi_step": NO_EXPLORATION | {"n_step": 1},
    "no_distribution": NO_EXPLORATION | {"distributional": False},
    "no_noisy": {"noisy": False},
}


@pytest.mark.parametrize("case", CASES)
def test_a_whole_training_is_what_the_algorithm_says(case, tmp_path, monkeypatch):
    NORMS.clear()
    noise = Noise(monkeypatch)
    watched = Watched("rainbow", tmp_path, monkeypatch, SHORT | CASES[case], noise)
    f = check(watched, RAINBOW, {} if "noisy" in CASES[case] else {"explored": 0})
    clipped_ones = sum(norm > f.c.max_gradient_norm for norm in NORMS)
    assert 5 <= clipped_ones <= len(NORMS) - 5
    if f.c.noisy:
        acts = [e for e in watched.events if e.kind == "act"]
        assert all(len(e.passes) == 1 and len(e.passes[0].noise) == (4 if f.c.dueling else 2) for e in acts)
        drawn = torch.cat([n for e in acts for n in e.passes[0].noise.values()])
        assert len(drawn.unique()) > 0.99 * len(drawn)  # new noise each time
        for name, inputs in (("advantage.0", 128), ("advantage.2", 128)):
            wanted = torch.full_like(f.initial[f"{name}.weight_sigma"], f.c.noisy_sigma / inputs**0.5)
            torch.testing.assert_close(f.initial[f"{name}.weight_sigma"], wanted, rtol=1e-5, atol=0)
