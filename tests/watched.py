"""A short real training of an agent of action values on scripted environments, watched; and the same algorithm once more, in
NumPy and float64, as the paper says it.

`Watched` trains the real script. Spies note, in order, what `act`, the memory, `update` and the evaluation phases were given and
what they gave back. `follow` walks through Algorithm 1 again: from nothing but what the environments said, the seed, and the
weights of the moment, it works out what each of these should have been.
"""

from __future__ import annotations

import copy
import csv
import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.learning.priorities import Priorities
from common.learning.replay import Replay
from common.runs.run import Run
from tests.scripted import ScriptedEnvs
from tests.training import spaces, train

ENVS, ACTIONS, SIZE, SEED = 3, 4, 3, 4
# Of the evaluation phases: the second has the best mean; others have the highest score and the best last one; in one no game ends
SCORES = ([10.0, 0.0], [6.0, 8.0], [], [4.0, 9.0, 0.5], [2.0, 6.5])
# No number twice, none of them a default; a turn is three agent steps, so few periods are whole turns
SETTINGS = {
    "network": "mlp", "num_envs": ENVS, "stack": 2, "training_steps": 480, "replay_capacity": 120, "replay_start": 96,
    "batch_size": 10, "update_period": 4, "target_period": 35, "discount": 0.8, "error_clip": 0.7, "learning_rate": 0.0123,
    "gradient_momentum": 0.9, "squared_gradient_momentum": 0.85, "min_squared_gradient": 0.02,
    "initial_exploration": 0.9, "final_exploration": 0.15, "final_exploration_step": 250,
    "evaluation_period": 95, "held_out_states": 17, "reward_clip": 1.0,
}  # fmt: skip
PROBES = np.random.default_rng(5).normal(size=(40, 2, SIZE)).astype(np.float32)

Weights = dict[str, torch.Tensor]


@dataclass
class Algorithm:
    """What a paper says, in float64.

    values(config, weights, states (B, stack, SIZE), noise) -> action values (B, A).
    gradient(config, weights, target's weights, batch, importance weights (B,), noise of the update) -> logged loss, gradient by
    name, sizes (B,) of which priorities are made.
    optimiser(config) -> a function of weights and gradient that returns the next weights.
    """

    name: str
    values: Callable
    gradient: Callable
    optimiser: Callable
    priority: Callable = lambda c, sizes: sizes
    reward: Callable = lambda c, r: r.clip(-c.reward_clip, c.reward_clip)
    lives: Callable = lambda c: c.life_loss_terminal
    prioritised: Callable = lambda c: None  # "proportional", "rank", or None
    keeps_best: bool = True
    has_target: bool = True
    columns: tuple[str, ...] = ("value_estimate",)  # what the curve has beside what every curve has


def numbers(net: torch.nn.Module) -> Weights:
    return {name: tensor.detach().double().clone() for name, tensor in net.state_dict().items()}


def assert_same(found: Weights, wanted: Weights, what: str) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), f"{what}: {name}"


class Watched:
    """A training, and what was seen of it: `events`, in order."""

    def __init__(self, name: str, folder, monkeypatch, settings: dict, noise=None):
        self.name, self.events, self.envs, self.phases = name, [], ScriptedEnvs(ENVS, ACTIONS, size=SIZE), 0
        self.script = importlib.import_module(f"replications.{name}.train")
        self.noise = noise or (lambda: [])  # the forward passes since the last call, with their noise
        self.asked = None
        act, update = self.script.act, self.script.update

        def make_envs(config, task, num_envs, seed, **options):
            self.asked = (num_envs, seed, options)
            return self.envs

        def spied_act(q, states, epsilon, rng, num_actions):
            before = copy.deepcopy(rng)
            self.noise()
            actions = act(q, states, epsilon, rng, num_actions)
            self.see(
                "act", net=numbers(q), states=states.numpy().copy(), epsilon=epsilon, rng=before, actions=actions.copy(),
                passes=self.noise(), num_actions=num_actions,
            )  # fmt: skip
            return actions

        def spied_update(*given):
            names = inspect.signature(update).bind(*given).arguments
            self.noise()
            steps = len(self.envs.steps)
            before = numbers(names["q"])
            target = numbers(names["target"]) if "target" in names else None
            result = update(*given)
            w = names.get("weights", names.get("w"))
            passes = self.noise()
            for one in passes:
                one.of = next(name for name in ("q", "target") if names[name] is one.net)
            loss, sizes = result if isinstance(result, tuple) else (result, None)
            self.see(
                "update", net=before, target=target, batch=names["batch"], after=numbers(names["q"]), loss=float(loss),
                passes=passes, steps=steps, weights=None if w is None else w.double().numpy().copy(),
                sizes=None if sizes is None else sizes.double().numpy().copy(),
            )  # fmt: skip
            return result

        def evaluate(run, policy, progress):
            self.noise()
            self.see(
                "phase", step=progress.agent_steps, actions=policy(PROBES.copy(), []), passes=self.noise()
            )
            self.phases += 1
            return np.array(SCORES[self.phases - 1])

        monkeypatch.setattr(self.script, "make_envs", make_envs)
        monkeypatch.setattr(self.script, "act", spied_act)
        monkeypatch.setattr(self.script, "update", spied_update)
        monkeypatch.setattr(Run, "evaluate", evaluate)
        self.spy(monkeypatch, Replay, "add", "actions", "rewards", "terminals", "obs")
        self.spy(monkeypatch, Replay, "begin_episodes", "obs", "mask")
        self.spy(monkeypatch, Replay, "draw", "rng", "batch_size")
        self.spy(monkeypatch, Replay, "newest", "count")
        self.spy(monkeypatch, Priorities, "draw", "rng", "batch_size")
        self.spy(monkeypatch, Priorities, "update", "indices", "priorities")
        fields = self.script.Config.__dataclass_fields__
        self.settings = {k: v for k, v in SETTINGS.items() if k in fields} | settings
        self.folder = train(name, "cartpole", folder, self.settings, seed=SEED)
        self.record = json.loads((self.folder / "run.json").read_text())
        self.config = self.script.Config(**self.record["settings"])

    def see(self, kind: str, **what) -> None:
        self.events.append(SimpleNamespace(kind=kind, **what))

    def spy(self, monkeypatch, owner: type, method: str, *names: str) -> None:
        real = getattr(owner, method)
        kind = f"{owner.__name__}.{method}"

        def spied(this, *given):
            values = dict(zip(names, (*copy.deepcopy(given), *[None] * len(names)), strict=False))
            order = this.order.state_dict() if owner is Priorities else None
            result = real(this, *given)
            if owner is Priorities and method == "draw":
                order = this.order.state_dict()  # as of the draw: it lets in what is new
            self.see(
                kind,
                **values,
                result=copy.deepcopy(result),
                memory=getattr(this, "replay", this),
                order=order,
            )
            return result

        monkeypatch.setattr(owner, method, spied)


class Memory:
    """Everything that the environments said, in the order of the memory's slots: one row an observation."""

    def __init__(self, config, slots: int):
        self.c, self.slots, self.window = config, slots, config.replay_capacity // config.num_envs
        self.steps = getattr(config, "n_step", 1)
        self.rows: list[list[SimpleNamespace]] = [[] for _ in range(config.num_envs)]

    def begin(self, env: int, obs: np.ndarray) -> None:
        if self.rows[env]:
            self.rows[env][-1].over = True
        self.rows[env].append(SimpleNamespace(obs=obs, age=0, action=None, over=False))

    def add(self, env: int, action: int, reward: float, terminal: bool, obs: np.ndarray) -> None:
        row = self.rows[env][-1]
        row.action, row.reward, row.terminal = action, reward, terminal
        self.rows[env].append(SimpleNamespace(obs=obs, age=row.age + 1, action=None, over=False))

    def state(self, env: int, at: int) -> np.ndarray:
        """(stack, SIZE), oldest first; zeros from before the episode."""
        row = self.rows[env][at]
        planes = [
            self.rows[env][at - k].obs if k <= row.age else np.zeros_like(row.obs)
            for k in range(self.c.stack)
        ]
        return np.stack(planes[::-1]).astype(np.float64)

    def outcome(self, env: int, at: int):
        """Rewards, whether it ended in a terminal, and the row that follows n steps later or at the end; None: not known yet."""
        rows, rewards = self.rows[env], []
        for k in range(self.steps):
            row = rows[at + k]
            if row.action is None:
                return (rewards, False, at + k) if row.over and k else None
            rewards.append(row.reward)
            if row.terminal:
                return rewards, True, at + k + 1
        return rewards, False, at + self.steps

    def may_be_drawn(self) -> list[tuple[int, int]]:
        found = []
        for env, rows in enumerate(self.rows):
            oldest = max(len(rows) - self.window, 0)
            for at in range(oldest, len(rows)):
                whole = at - min(rows[at].age, self.c.stack - 1) >= oldest
                if whole and rows[at].action is not None and self.outcome(env, at) is not None:
                    found.append((env, at))
        return found

    def at(self, indices: np.ndarray) -> list[tuple[int, int]]:
        """(environment, slot) -> (environment, row): the newest row that has that slot."""
        found = []
        for env, slot in indices.tolist():
            newest = len(self.rows[env]) - 1
            found.append((env, newest - (newest - slot) % self.slots))
        return found

    def batch(self, where: list[tuple[int, int]]) -> SimpleNamespace:
        outcomes = [self.outcome(*place) for place in where]
        rewards = np.zeros((len(where), self.steps))
        for row, (given, _, _) in zip(rewards, outcomes, strict=True):
            row[: len(given)] = given
        return SimpleNamespace(
            states=np.stack([self.state(*place) for place in where]),
            actions=np.array([self.rows[env][at].action for env, at in where]),
            rewards=rewards,
            terminals=np.array([terminal for _, terminal, _ in outcomes]),
            next_states=np.stack(
                [self.state(env, o[2]) for (env, _), o in zip(where, outcomes, strict=True)]
            ),
            steps=np.array([len(given) for given, _, _ in outcomes]),
        )


def exploration(c, step: int) -> float:
    part = min(max(step - c.replay_start, 0) / c.final_exploration_step, 1)
    return (1 - part) * c.initial_exploration + part * c.final_exploration


def beta(c, step: int) -> float:
    return 1 - (1 - c.importance_exponent) * (1 - step / c.training_steps)


class Follower:
    """The walk through Algorithm 1. `at` counts events."""

    def __init__(self, watched: Watched, algorithm: Algorithm):
        self.w, self.a, self.c, self.at = watched, algorithm, watched.config, 0
        c = self.c
        first = next(e for e in watched.events if e.kind == "Replay.begin_episodes")
        self.memory = Memory(c, first.memory.slots)
        self.net = watched.events[1].net
        self.target, self.initial = self.net, self.net
        self.step_of = algorithm.optimiser(c)
        self.kind = algorithm.prioritised(c)
        self.priorities: dict[tuple[int, int], float] = {}
        self.largest = 1.0
        self.updates, self.copies, self.episodes = 0, 0, []
        self.losses: list[float] = []
        self.held_out = None
        self.phases: list[SimpleNamespace] = []
        self.drawn: list[float] = []  # where in the memory, from 0 (oldest) to 1
        self.kinds = dict.fromkeys(
            ("game over", "cut", "life", "clipped", "explored", "greedy", "terminal", "wrapped"), 0
        )

    def take(self, kind: str) -> SimpleNamespace:
        assert self.at < len(self.w.events), f"{kind} is missing at the end"
        event = self.w.events[self.at]
        assert event.kind == kind, f"event {self.at}: {event.kind}, where the algorithm has {kind}"
        self.at += 1
        return event

    def values(self, net: Weights, states: np.ndarray, noise=None) -> np.ndarray:
        with torch.no_grad():
            return self.a.values(self.c, net, torch.from_numpy(states).double(), noise).numpy()

    def follow(self) -> None:
        c = self.c
        begin = self.take("Replay.begin_episodes")
        assert self.w.asked[:2] == (c.num_envs, SEED)
        seen = self.w.envs.seen()
        np.testing.assert_array_equal(begin.obs, seen[0])
        for env in range(c.num_envs):
            self.memory.begin(env, seen[0, env])
        while_stepping = getattr(c, "learn_while_stepping", False)
        for turn in range(c.training_steps // c.num_envs):
            self.before, self.now = turn * c.num_envs, (turn + 1) * c.num_envs
            self.act(turn)
            if while_stepping:
                self.learn()
            self.store(turn, seen[turn + 1])
            if self.before < c.replay_start <= self.now:
                drawn = self.take("Replay.draw")
                assert drawn.batch_size == c.held_out_states
                self.held_out = self.memory.batch(self.places(drawn)).states
            if not while_stepping:
                self.learn()
            if self.now // c.evaluation_period > self.before // c.evaluation_period:
                self.phase()
        assert self.at == len(self.w.events), f"one more: {self.w.events[self.at].kind}"
        self.kinds["wrapped"] = min(len(rows) for rows in self.memory.rows) // self.memory.slots

    def act(self, turn: int) -> None:
        c, e = self.c, self.take("act")
        epsilon = exploration(c, self.before)
        assert e.epsilon == pytest.approx(epsilon, abs=1e-12), f"epsilon at agent step {self.before}"
        assert e.num_actions == ACTIONS
        if turn == 0:
            assert e.rng.bit_generator.state == np.random.default_rng(SEED).bit_generator.state
        states = np.stack(
            [self.memory.state(env, len(rows) - 1) for env, rows in enumerate(self.memory.rows)]
        )
        np.testing.assert_array_equal(e.states, states, err_msg=f"what is acted on in turn {turn}")
        assert_same(e.net, self.net, "the network that acts")
        explore, other = e.rng.random(c.num_envs) < epsilon, e.rng.integers(ACTIONS, size=c.num_envs)
        if not explore.all():
            noise = None
            if e.passes:
                (only,) = e.passes  # one forward pass
                assert np.array_equal(only.states, states)
                noise = only.noise
            values = self.values(self.net, states, noise)
        for i, action in enumerate(e.actions):
            if explore[i]:
                assert action == other[i]
            else:
                assert values[i, action] >= values[i].max() - 1e-5 * np.abs(values[i]).max()
        self.kinds["explored"] += explore.sum()
        self.kinds["greedy"] += (~explore).sum()
        np.testing.assert_array_equal(self.w.envs.acted[turn], e.actions)

    def store(self, turn: int, following: np.ndarray) -> None:
        c, e, step = self.c, self.take("Replay.add"), self.w.envs.steps[turn]
        rewards = self.a.reward(c, step.rewards)
        lives = self.a.lives(c)
        terminals = np.array(
            [over or (lost and lives) for over, lost in zip(step.game_over, step.life_lost, strict=True)]
        )
        np.testing.assert_array_equal(e.actions, self.w.envs.acted[turn])
        np.testing.assert_array_equal(e.rewards, rewards)
        np.testing.assert_array_equal(e.terminals, terminals)
        np.testing.assert_array_equal(e.obs, step.obs)
        for env in range(c.num_envs):
            self.memory.add(
                env, int(e.actions[env]), np.float32(rewards[env]), bool(terminals[env]), step.obs[env]
            )
        self.kinds["game over"] += step.game_over.sum()
        self.kinds["cut"] += step.truncated.sum()
        self.kinds["life"] += (step.life_lost & ~step.done).sum()
        self.kinds["clipped"] += (rewards != step.rewards).sum()
        if step.done.any():
            e = self.take("Replay.begin_episodes")
            np.testing.assert_array_equal(e.mask, step.done)
            np.testing.assert_array_equal(e.obs[step.done], following[step.done])
            for env in np.flatnonzero(step.done):
                self.memory.begin(env, following[env])
                self.episodes.append((self.now, float(step.scores[env]), int(step.lengths[env])))

    def places(self, drawn: SimpleNamespace) -> list[tuple[int, int]]:
        """Of a uniform draw: every one may be drawn, and a note of how old it is."""
        allowed, where = self.memory.may_be_drawn(), self.memory.at(drawn.result)
        assert set(where) <= set(allowed), "a transition was drawn that may not be"
        for env, at in where:
            ages = [k for e, k in allowed if e == env]
            self.drawn.append((ages.index(at) + 0.5) / len(ages))
        return where

    def learn(self) -> None:
        c = self.c
        if self.now <= c.replay_start:
            return
        for _ in range(self.now // c.update_period - self.before // c.update_period):
            self.update()
        if self.a.has_target and self.now // c.target_period > self.before // c.target_period:
            self.target = self.net
            self.copies += 1

    def draw(self) -> tuple[list[tuple[int, int]], np.ndarray | None]:
        """The transitions of the next update, and their importance weights."""
        c = self.c
        if not getattr(c, "replay", True):
            e = self.take("Replay.newest")
            allowed, where = self.memory.may_be_drawn(), self.memory.at(e.result)
            age = {place: len(self.memory.rows[place[0]]) - place[1] for place in allowed}
            assert len(set(where)) == len(where) == c.update_period
            assert sorted(age[place] for place in where) == sorted(age.values())[: c.update_period]
            return where, None
        if self.kind is None:
            e = self.take("Replay.draw")
            assert e.batch_size == c.batch_size
            return self.places(e), np.ones(c.batch_size)
        e = self.take("Priorities.draw")
        assert e.batch_size == c.batch_size
        allowed = self.memory.may_be_drawn()
        self.priorities = {place: self.priorities.get(place, self.largest) for place in allowed}
        where, (indices, probabilities) = self.memory.at(e.result[0]), e.result
        points = (np.arange(c.batch_size) + e.rng.random(c.batch_size)) / c.batch_size
        if self.kind == "proportional":
            keys = sorted(allowed, key=lambda place: (place[0], place[1] % self.memory.slots))
            law = np.array([self.priorities[place] for place in keys]) ** c.priority_exponent
        else:  # the order of the heap; that it is one of these priorities is what can be said of it
            keys = self.memory.at(np.stack(np.divmod(e.order["leaf"], self.memory.slots), axis=1))
            np.testing.assert_allclose(
                e.order["key"], [self.priorities[place] for place in keys], rtol=1e-3, atol=1e-5
            )
            law = np.arange(1, len(keys) + 1) ** -c.priority_exponent
        assert sorted(keys) == sorted(allowed), "what has a priority"
        law = law / law.sum()
        number = {place: i for i, place in enumerate(keys)}
        numbers = np.array([number[place] for place in where])
        np.testing.assert_allclose(probabilities, law[numbers], rtol=1e-3, err_msg="probabilities")
        top = law.cumsum()
        assert (points <= top[numbers] + 1e-5).all()
        assert (points >= top[numbers] - law[numbers] - 1e-5).all()
        weights = (len(allowed) * law[numbers]) ** -beta(c, self.now)
        self.indices = indices
        return where, weights / weights.max()

    def update(self) -> None:
        c = self.c
        where, weights = self.draw()
        e, batch = self.take("update"), self.memory.batch(where)
        steps = self.now // c.num_envs - getattr(c, "learn_while_stepping", False)
        assert e.steps == steps, "whether the emulators are still at their step"
        assert_same(e.net, self.net, "the network that learns")
        target = self.target if getattr(c, "target_network", self.a.has_target) else self.net
        if self.updates == 0:
            assert self.copies == 0, "the first copy would hide whether there was an initial one"
        if self.a.has_target:
            assert_same(e.target, target, f"the target network at agent step {self.now}")
        self.kinds["terminal"] += batch.terminals.sum()
        for name in ("states", "actions", "terminals", "steps"):
            given = getattr(e.batch, name)
            if given is not None:
                np.testing.assert_array_equal(given.numpy(), getattr(batch, name), err_msg=name)
        np.testing.assert_array_equal(
            e.batch.rewards.numpy().reshape(len(where), -1), batch.rewards, err_msg="rewards"
        )
        alive = ~batch.terminals  # what follows an end means nothing
        np.testing.assert_array_equal(
            e.batch.next_states.numpy()[alive], batch.next_states[alive], err_msg="next_states"
        )
        if e.weights is not None:
            np.testing.assert_allclose(e.weights, weights, rtol=1e-3, err_msg="importance weights")
        loss, gradient, sizes = self.a.gradient(c, self.net, target, batch, weights, e.passes)
        assert e.loss == pytest.approx(loss, rel=1e-3, abs=1e-4)
        wanted = self.step_of(self.net, gradient)
        scale = max(float((wanted[name] - tensor).abs().max()) for name, tensor in self.net.items())
        for name, tensor in self.net.items():
            moved, should = (e.after[name] - tensor).numpy(), (wanted[name] - tensor).numpy()
            np.testing.assert_allclose(
                moved, should, rtol=5e-3, atol=5e-3 * scale, err_msg=f"{name}, update {self.updates}"
            )
        if self.kind is not None:
            put = self.take("Priorities.update")
            np.testing.assert_array_equal(put.indices, self.indices)
            wanted = self.a.priority(c, sizes)
            np.testing.assert_allclose(put.priorities, wanted, rtol=2e-3, atol=1e-5, err_msg="priorities")
            for place, size in zip(where, put.priorities, strict=True):
                self.priorities[place] = size
            self.largest = max(self.largest, put.priorities.max())
        self.net, self.updates = e.after, self.updates + 1
        self.losses.append(loss)

    def phase(self) -> None:
        c, e = self.c, self.take("phase")
        assert e.step == self.now
        assert not any(p.noise for p in e.passes), "an evaluation has no noise"
        values = self.values(self.net, PROBES)
        best = values[np.arange(len(PROBES)), e.actions]
        assert (best >= values.max(axis=1) - 1e-5 * np.abs(values).max()).all(), (
            "what is evaluated is not greedy"
        )
        row = {
            "agent_steps": self.now, "frames": self.now, "updates": self.updates, "episodes": len(self.episodes),
            "eval_episodes": len(SCORES[len(self.phases)]), "loss": np.mean(self.losses) if self.losses else 0.0,
            "epsilon": exploration(c, self.now), "learning_rate": c.learning_rate,
            "train_score_100": np.mean([score for _, score, _ in self.episodes[-100:]]),
            "mean_max_q": 0.0 if self.held_out is None else self.values(self.net, self.held_out).max(axis=1).mean(),
        }  # fmt: skip
        if self.held_out is None:  # zeros, which have values too
            row["mean_max_q"] = self.values(self.net, np.zeros((1, c.stack, SIZE))).max()
        more = {"value_estimate": lambda: values.max(axis=1).mean(), "beta": lambda: beta(c, self.now)}
        row |= {name: more[name]() for name in self.a.columns}
        self.phases.append(SimpleNamespace(net=self.net, step=self.now, row=row))
        self.losses = []


def check(watched: Watched, algorithm: Algorithm, kinds: dict | None = None) -> Follower:
    """Follows the training, and holds what was written against it. kinds: how often each thing must have happened, if not twice."""
    f = Follower(watched, algorithm)
    f.follow()
    least = {name: 2 for name in f.kinds} | {"wrapped": 1, "terminal": 20} | (kinds or {})
    assert all(f.kinds[name] >= n for name, n in least.items()), f.kinds
    if f.kind is None and getattr(f.c, "replay", True):  # uniform: a mean of K numbers from 0 to 1
        assert abs(np.mean(f.drawn) - 0.5) < 4 / np.sqrt(12 * len(f.drawn))
        assert np.std(f.drawn) == pytest.approx(1 / np.sqrt(12), rel=0.1)

    record, result = watched.record, watched.record["result"]
    assert record["progress"]["agent_steps"] == f.c.training_steps
    assert record["progress"]["updates"] == f.updates > 50
    assert record["progress"]["episodes"] == len(f.episodes)
    assert result["counts"]["target_copies"] == f.copies
    assert result["counts"]["evaluations"] == len(f.phases) == len(SCORES)
    episodes = list(csv.DictReader((watched.folder / "episodes.csv").open()))
    assert [(int(e["agent_steps"]), float(e["score"]), int(e["length"])) for e in episodes] == f.episodes
    curve = list(csv.DictReader((watched.folder / "curve.csv").open()))
    for row, phase, scores in zip(curve, f.phases, SCORES, strict=True):
        assert row["eval_score"] == (f"{np.mean(scores):g}" if scores else "")
        for name, value in phase.row.items():
            assert float(row[name]) == pytest.approx(value, rel=2e-3, abs=1e-4), (
                f"{name} at agent step {phase.step}"
            )

    best = f.phases[int(np.argmax([np.mean(scores or [-np.inf]) for scores in SCORES]))]
    kept = best.net if algorithm.keeps_best else f.net
    written = {
        name: tensor.double() for name, tensor in load_file(watched.folder / "model.safetensors").items()
    }
    assert_same(written, kept, "the network that is written")
    assert (result["best_score"], result["best_agent_step"]) == (
        (7.0, best.step) if algorithm.keeps_best else (None, f.c.training_steps)
    )
    # The final evaluation plays it greedily
    net = watched.script.make_network(f.c, spaces(ACTIONS, (SIZE,)))
    net.load_state_dict({name: tensor.float() for name, tensor in written.items()})
    actions = watched.script.make_policy(net, f.c)(PROBES.copy(), [])
    np.testing.assert_array_equal(actions, f.values(kept, PROBES).argmax(axis=1))
    return f


# --- what several papers share ---


def layers(w: Weights, x: torch.Tensor, *names: str) -> torch.Tensor:
    """Linear layers with rectifiers between them."""
    for k, name in enumerate(names):
        x = (torch.relu(x) if k else x) @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    return x


def mlp(c, w: Weights, x: torch.Tensor, noise=None) -> torch.Tensor:
    return layers(w, x.flatten(1), "layers.1", "layers.3", "layers.5")


def q_errors(c, w: Weights, target: Weights, batch, values: Callable, double: bool) -> torch.Tensor:
    """y - Q(s, a), (B,), with gradient; the target is without."""
    with torch.no_grad():
        after = values(c, target, torch.from_numpy(batch.next_states)).numpy()
        chooser = values(c, w, torch.from_numpy(batch.next_states)).numpy() if double else after
    best = after[np.arange(len(after)), chooser.argmax(axis=1)]
    y = batch.rewards[:, 0] + np.where(batch.terminals, 0, c.discount * best)
    q = values(c, w, torch.from_numpy(batch.states))
    return torch.from_numpy(y) - q[torch.arange(len(y)), torch.from_numpy(batch.actions)]


def clipped(errors: torch.Tensor, largest: float) -> torch.Tensor:
    """A loss whose gradient is that of half the square, its size at most `largest`: the area under the clipped error."""
    size = errors.abs()
    return torch.where(size <= largest, errors**2 / 2, largest * size - largest**2 / 2)


def gradient_of(w: Weights, loss_of: Callable) -> tuple[torch.Tensor, Weights]:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in w.items()}
    loss = loss_of(leaves)
    loss.backward()
    return loss.detach(), {name: tensor.grad for name, tensor in leaves.items()}


def clipped_q_learning(double: bool, values: Callable = mlp) -> Callable:
    """The sum over the minibatch of the weighted clipped errors."""

    def gradient(c, w, target, batch, weights, passes):
        sizes = []

        def loss_of(leaves):
            errors = q_errors(c, leaves, target, batch, values, double)
            sizes.append(errors.detach().abs().numpy())
            losses = clipped(errors, c.error_clip)
            return (losses if weights is None else losses * torch.from_numpy(weights)).sum()

        loss, d = gradient_of(w, loss_of)
        return loss.item(), d, sizes[0]

    return gradient


def centred_rmsprop(c) -> Callable:
    """DQN's released code's."""
    g, s = {}, {}

    def step(w: Weights, d: Weights) -> Weights:
        after = {}
        for k in w:
            g[k] = c.gradient_momentum * g.get(k, 0) + (1 - c.gradient_momentum) * d[k]
            s[k] = c.squared_gradient_momentum * s.get(k, 0) + (1 - c.squared_gradient_momentum) * d[k] ** 2
            variance = (s[k] - g[k] ** 2).clamp(min=0)
            after[k] = w[k] - c.learning_rate * d[k] / (variance + c.min_squared_gradient).sqrt()
        return after

    return step
