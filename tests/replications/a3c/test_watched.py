"""One short training of two workers, watched, and all of it computed again: actions, targets, gradients, steps, outputs.

The workers run in this process and take turns. Their environments are scripted: games lose lives, end and are cut. The training
again is written here in float64, from nothing but what the environments said and the seed.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.runs.run import Run
from replications.a3c import train as script
from tests.scripted import ScriptedEnvs
from tests.training import train

WORKERS, ACTIONS, STACK, SEED = 2, 3, 2, 4
STEPS, PERIOD = 300, 60
# Of each evaluation phase: the second has the best mean, others the highest scores, in the third no game ends
SCORES = [[10.0, 0.0], [6.0, 8.0], [], [4.0, 9.0], [2.0]]
EPSILONS, LIKELY = (0.1, 0.01, 0.5), (0.4, 0.3, 0.3)  # s. 8


class TakingTurns:
    """`Workers` in one process: one rollout of each in turn."""

    def __init__(self, count, make):
        self.workers, self.turn = [make(i) for i in range(count)], 0

    def run(self, until, seconds, interrupted, hear):
        while (worker := self.workers[self.turn % len(self.workers)]).wants(until):
            for news in worker.work():
                hear(news)
            self.turn += 1

    def state_dict(self):
        return {"workers": [worker.state_dict() for worker in self.workers]}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Watched:
    """A training, and what was seen of it."""

    def __init__(self, monkeypatch, folder, settings: dict):
        self.envs, self.phases, self.steps, self.shared = [], [], [], None

        def make_envs(config, task, num_envs, seed, **_):
            assert num_envs == 1
            self.envs.append(ScriptedEnvs(1, ACTIONS))
            self.envs[-1].rng = np.random.default_rng(len(self.envs))
            return self.envs[-1]

        def evaluate(run, policy, progress):
            weights = {k: v.clone() for k, v in policy.network.state_dict().items()}
            self.phases.append((progress.agent_steps, weights))
            return np.array(SCORES[len(self.phases) - 1])

        make, step = script.Shared.__init__, script.SharedRMSProp.step

        def spied_shared(shared, *arguments):
            make(shared, *arguments)
            self.shared = shared
            self.first = {k: v.double().clone() for k, v in shared.network.state_dict().items()}
            for name, tensor in shared.target.state_dict().items():
                assert torch.equal(tensor, shared.network.state_dict()[name])  # theta- = theta

        def spied_step(optimiser, gradient, rate):
            self.steps.append((gradient.double().clone(), rate, optimiser.weights.double().clone()))
            step(optimiser, gradient, rate)

        monkeypatch.setattr(script, "make_envs", make_envs)
        monkeypatch.setattr(script, "Workers", TakingTurns)
        monkeypatch.setattr(script.Shared, "__init__", spied_shared)
        monkeypatch.setattr(script.SharedRMSProp, "step", spied_step)
        monkeypatch.setattr(Run, "evaluate", evaluate)
        self.settings = {
            "training_steps": STEPS, "evaluation_period": PERIOD, "workers": WORKERS, "stack": STACK, "rollout": 5,
            "learning_rate": 0.02, "discount": 0.9, "entropy_weight": 0.05, "target_period": 22,
            "final_exploration_step": 200, "max_gradient_norm": 8.0,
        } | settings  # fmt: skip
        self.folder = train("a3c", "cartpole", folder, self.settings, seed=SEED)
        self.config = script.Config(**json.loads((self.folder / "run.json").read_text())["settings"])


class Reference:
    """The same training again. One game of each worker; `turns` holds what each update should have been."""

    def __init__(self, watched: Watched):
        self.c, self.w = watched.config, {k: v.clone().requires_grad_() for k, v in watched.first.items()}
        self.target = {k: v.detach().clone() for k, v in self.w.items()}
        self.square = {k: torch.zeros_like(v) for k, v in self.w.items()}
        self.T, self.copies, self.turns, self.episodes = 0, 0, [], []
        self.kinds = {"game over": 0, "cut": 0, "life": 0, "clipped": 0}
        games = [Game(i, envs, self) for i, envs in enumerate(watched.envs[1:])]  # the first one is a probe
        while self.T < STEPS:
            before = self.T
            self.turns.append(games[len(self.turns) % WORKERS].rollout())
            if before // PERIOD < self.T // PERIOD:
                self.turns[-1]["phase"] = {k: v.detach().clone() for k, v in self.w.items()}

    def outputs(self, w: dict, x: torch.Tensor, hidden):
        """(stack x size,) -> outputs (A,), value, hidden."""
        h = torch.relu(w["torso.1.weight"] @ x + w["torso.1.bias"])
        if self.c.lstm:
            before, cell = hidden
            gates = w["lstm.weight_ih_l0"] @ h + w["lstm.bias_ih_l0"]
            gates = gates + w["lstm.weight_hh_l0"] @ before + w["lstm.bias_hh_l0"]
            i, f, g, o = gates.chunk(4)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(cell)
            hidden = (h, cell)
        value = w["value.weight"][0] @ h + w["value.bias"][0] if "value.weight" in w else None
        return w["policy.weight"] @ h + w["policy.bias"], value, hidden

    def loss(self, x, actions, rewards, terminal, hidden, next_action):
        """x: n + 1 states. Algorithms 1, S2 and S3 as printed, with the listed gradients of values."""
        c, n, total = self.c, len(actions), 0
        if c.algorithm == "a3c":
            heads = []
            for state in x:
                logits, value, hidden = self.outputs(self.w, state, hidden)
                heads.append((logits, value))
            R = 0.0 if terminal else heads[n][1].item()
            for i in reversed(range(n)):
                R = rewards[i] + c.discount * R
                log_pi = torch.log_softmax(heads[i][0], 0)
                total = total - log_pi[actions[i]] * (R - heads[i][1].item())
                total = (
                    total + 0.25 * (R - heads[i][1]) ** 2 + c.entropy_weight * (log_pi.exp() * log_pi).sum()
                )
            return total
        after = [self.outputs(self.target, state, None)[0] for state in x]
        R = 0.0 if terminal else after[n].max().item()
        for i in reversed(range(n)):
            alive = not (terminal and i == n - 1)
            if c.algorithm == "n_step_q":
                y = R = rewards[i] + c.discount * R
            elif c.algorithm == "one_step_q":
                y = rewards[i] + c.discount * alive * after[i + 1].max().item()
            else:
                following = actions[i + 1] if i + 1 < n else next_action
                y = rewards[i] + (c.discount * after[i + 1][following].item() if alive else 0.0)
            total = total + 0.5 * (y - self.outputs(self.w, x[i], None)[0][actions[i]]) ** 2
        return total

    def update(self, loss) -> dict:
        """Descends; returns what the optimiser should have been given."""
        c = self.c
        for parameter in self.w.values():
            parameter.grad = None
        loss.backward()
        d = {k: p.grad for k, p in self.w.items()}
        rate = c.learning_rate * (1 - self.T / c.training_steps)
        norm = sum(float((g**2).sum()) for g in d.values()) ** 0.5
        self.kinds["clipped"] += norm > c.max_gradient_norm
        turn = {"gradient": d, "rate": rate, "weights": {k: p.detach().clone() for k, p in self.w.items()}}
        with torch.no_grad():
            for k, p in self.w.items():
                g = d[k] * min(1.0, c.max_gradient_norm / norm)
                self.square[k] = 0.99 * self.square[k] + 0.01 * g**2
                p -= rate * g / (self.square[k] + c.min_squared_gradient).sqrt()
        return turn

    def count(self, n: int) -> None:
        self.T += n
        if self.c.algorithm != "a3c" and self.T // self.c.target_period > self.copies:
            self.copies = self.T // self.c.target_period
            self.target = {k: v.detach().clone() for k, v in self.w.items()}


class Game:
    """One worker of the reference: where its environment stands, its generator, its LSTM's state."""

    def __init__(self, index: int, envs: ScriptedEnvs, reference: Reference):
        self.envs, self.seen, self.r, self.t = envs, envs.seen()[:, 0].astype(np.float64), reference, 0
        self.rng = np.random.default_rng(np.random.SeedSequence((SEED, 0xA3C, index)))
        self.begin()

    def begin(self):
        size = self.seen.shape[1]
        self.frames = [np.zeros(size)] * (STACK - 1) + [self.seen[self.t]]
        self.hidden = (torch.zeros(256, dtype=torch.float64),) * 2 if self.r.c.lstm else None
        self.final = float(self.rng.choice(EPSILONS, p=LIKELY))
        self.chosen = None

    def act(self) -> int:
        with torch.no_grad():
            outputs, _, self.hidden = self.r.outputs(self.r.w, self.state(), self.hidden)
        if self.r.c.algorithm == "a3c":
            pi = torch.softmax(outputs, 0).numpy()
            return int((np.cumsum(pi) <= self.rng.random()).sum())
        part = min(self.r.T / self.r.c.final_exploration_step, 1)
        explore, action = self.rng.random() < 1 + part * (self.final - 1), int(self.rng.integers(ACTIONS))
        return action if explore else int(outputs.argmax())

    def state(self) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(self.frames))

    def rollout(self) -> dict:
        r, c = self.r, self.r.c
        hidden, x, actions, rewards, terminal, done = self.hidden, [self.state()], [], [], False, False
        while len(actions) < c.rollout and not terminal and not done:
            actions.append(self.act() if self.chosen is None else self.chosen)
            assert actions[-1] == int(self.envs.acted[self.t][0])
            step = self.envs.steps[self.t]
            self.t += 1
            rewards.append(max(-c.reward_clip, min(c.reward_clip, float(step.rewards[0]))))
            # the last observation of a game is not the first one of the next
            self.frames = [*self.frames[1:], step.obs[0].astype(np.float64)]
            x.append(self.state())
            over, lost = bool(step.game_over[0]), bool(step.life_lost[0])
            terminal, done = over or (lost and c.life_loss_terminal), bool(step.done[0])
            r.kinds["game over"] += over
            r.kinds["cut"] += done and not over
            r.kinds["life"] += lost and not done
            self.chosen = self.act() if c.algorithm == "one_step_sarsa" and not terminal else None
        turn_loss = r.loss(x, actions, rewards, terminal, hidden, self.chosen)
        turn = r.update(turn_loss)
        r.count(len(actions))
        turn["steps"], turn["loss"] = len(actions), turn_loss.item()
        if done:
            r.episodes.append((r.T, float(step.scores[0]), int(step.lengths[0])))
            self.begin()
        return turn


CASES = {
    "a3c": {},
    "a3c, clipped at 2, lives do not count": {"reward_clip": 2.0, "life_loss_terminal": False},
    "lstm": {"lstm": True, "learning_rate": 0.003},  # rounding grows with the steps
    "n_step_q": {"algorithm": "n_step_q"},
    "one_step_q": {"algorithm": "one_step_q"},
    "one_step_sarsa": {"algorithm": "one_step_sarsa"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_whole_training_is_what_the_algorithms_say(case, tmp_path, monkeypatch):
    watched = Watched(monkeypatch, tmp_path, CASES[case])
    reference = Reference(watched)
    assert all(count >= 2 for count in reference.kinds.values()), reference.kinds  # the script has it all

    assert len(watched.steps) == len(reference.turns)
    T = 0
    for (gradient, rate, weights), turn in zip(watched.steps, reference.turns, strict=True):
        assert rate == pytest.approx(turn["rate"], rel=1e-9), T
        for ours, wanted in ((gradient, turn["gradient"]), (weights, turn["weights"])):
            wanted = torch.cat([wanted[name].flatten() for name in watched.first])
            torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=2e-4 * float(wanted.abs().max()))
        T += turn["steps"]
    assert T == watched.shared.agent_steps() == reference.T
    assert int(watched.shared.target_copies) == reference.copies

    record = json.loads((watched.folder / "run.json").read_text())
    assert record["progress"]["agent_steps"] == T
    assert record["progress"]["updates"] == len(reference.turns)
    assert record["result"]["counts"] == {"target_copies": reference.copies, "evaluations": 5}

    # episodes: raw scores of whole games, at the T of the rollout with which they ended
    episodes = list(csv.DictReader((watched.folder / "episodes.csv").open()))
    found = [(int(e["agent_steps"]), float(e["score"]), int(e["length"])) for e in episodes]
    assert found == reference.episodes

    # phases: at each multiple of the period, of the network as it is then; the best by its mean is what is written
    phases = [turn["phase"] for turn in reference.turns if "phase" in turn]
    assert len(watched.phases) == len(phases) == 5
    curve = list(csv.DictReader((watched.folder / "curve.csv").open()))
    for number, ((step, weights), wanted) in enumerate(zip(watched.phases, phases, strict=True)):
        assert step // PERIOD == number + 1
        for name, tensor in wanted.items():
            torch.testing.assert_close(
                weights[name].double(), tensor, rtol=1e-3, atol=2e-4 * float(tensor.abs().max())
            )
        row, scores = curve[number], SCORES[number]
        assert int(row["agent_steps"]) == step
        assert row["eval_score"] == (f"{np.mean(scores):g}" if scores else "")
        assert float(row["learning_rate"]) == pytest.approx(
            max(watched.config.learning_rate * (1 - step / STEPS), 0), abs=1e-9
        )
    since = {"loss": 0.0, "steps": 0}  # means per agent step, of the updates since the last row
    losses = []
    for turn in reference.turns:
        since = {name: since[name] + turn[name] for name in since}
        if "phase" in turn:
            losses.append(since["loss"] / since["steps"])
            since = dict.fromkeys(since, 0)
    assert [float(row["loss"]) for row in curve] == pytest.approx(losses, rel=1e-2, abs=1e-3)
    written = load_file(watched.folder / "model.safetensors")
    for name, tensor in watched.phases[1][1].items():
        assert torch.equal(written[name], tensor), name
    assert record["result"]["best_score"] == 7.0
    assert record["result"]["best_agent_step"] == watched.phases[1][0]
