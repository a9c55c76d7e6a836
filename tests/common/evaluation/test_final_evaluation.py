"""The final evaluation and the evaluation phases, watched: which weights, which games, which epsilon, and what the score is of."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common import papers
from common.environments.vector import ReplayableEnvs
from common.evaluation import protocol
from common.runs import run as runs
from common.runs.progress import Progress
from replications.dqn import train as dqn
from tests.scripted import ScriptedEnvs
from tests.training import open_run, spaces

ACTIONS, SEED, EPISODES, EXTRA = 6, 9, 13, 5
PROTOCOL = {"epsilon": 0.3, "max_frames": 444, "noop_max": 7, "episodes": EPISODES, "extra_episodes": EXTRA}
SETTINGS = {
    "network": "mlp", "stack": 2, "noop_max": 30, "evaluation_epsilon": 0.9, "reward_clip": 1.0, "discount": 0.8,
    "evaluation_steps": 150,
}  # fmt: skip


class Games(ScriptedEnvs):
    """Games that are what their seed says; they keep the seeds they were given and what they showed."""

    def __init__(self, num_envs: int):
        super().__init__(num_envs, ACTIONS, cap=25)
        self.seeds, self.shown = [], []

    def reset(self, seeds=None):
        self.seeds.append(None if seeds is None else [int(s) for s in seeds])
        if seeds is not None:
            self.rng = np.random.default_rng([int(s) for s in seeds])
        return super().reset(seeds)

    def screen(self, env):
        return np.zeros((210, 160, 3), np.uint8)


class Evaluation:
    """A run folder whose weights are written here, evaluated; every environment and policy that was made for it."""

    def __init__(self, folder, monkeypatch):
        self.made, self.asked = [], []
        resolve = papers.resolve

        def resolved(*given):
            r = resolve(*given)
            return replace(r, protocol=replace(r.protocol, **PROTOCOL))

        def make_envs(config, task, num_envs, seed, **options):
            envs = Games(num_envs)
            if isinstance(self.made, list):
                self.made.append(envs)
                self.asked.append((config, options))
            return envs

        monkeypatch.setattr(papers, "resolve", resolved)
        monkeypatch.setattr(protocol, "make_envs", make_envs)
        run = {
            "paper": "dqn", "variant": None, "task": "pong", "budget": "paper", "seed": SEED, "settings": SETTINGS,
            "result": {"best_agent_step": 1234, "best_score": 77.0},
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(run))
        torch.manual_seed(3)
        self.net = dqn.make_network(dqn.Config(**SETTINGS), spaces(ACTIONS, (3,)))
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.mul_(3)  # so that values differ
        save_file(self.net.state_dict(), folder / "model.safetensors")
        self.result = protocol.evaluate_run(folder, "cpu")
        self.asked, self.made = tuple(self.asked), tuple(self.made)  # of the evaluation alone
        self.agent = protocol.Agent(folder, "cpu")

    def groups(self) -> list[Games]:
        """The environments that were played in, films not counted."""
        return [
            envs
            for (_, options), envs in zip(self.asked, self.made, strict=True)
            if envs.acted and not options["keep_rgb"]
        ]


def first_episodes(envs: ScriptedEnvs) -> list[tuple[float, int]]:
    """Raw score and length of each environment's first episode."""
    done, rewards = envs.column("done"), envs.column("rewards")
    lengths = done.argmax(axis=0) + 1
    return [(float(rewards[:n, i].sum()), int(n)) for i, n in enumerate(lengths)]


def greedy_actions(net, states: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(states.reshape(-1, 2, 3))).argmax(dim=1).numpy().reshape(states.shape[:2])


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Evaluation(tmp_path_factory.mktemp("evaluated"), patch)


def test_games_are_the_protocols(watched):
    """Cap in frames, no-ops and number of episodes are the protocol's; no game is given twice; all are the run's own."""
    for config, options in watched.asked:
        assert config.noop_max == PROTOCOL["noop_max"]
        assert options["max_frames"] == PROTOCOL["max_frames"]
    groups = watched.groups()
    assert [g.num_envs for g in groups] == [10, 3, 5]
    assert all(len(g.seeds) == 1 for g in groups)
    seeds = [seed for g in groups for seed in g.seeds[0]]
    assert len(set(seeds)) == EPISODES + EXTRA
    result = watched.result
    assert [e["seed"] for e in result["episodes"] + result["extra_episodes"]] == seeds
    assert result["protocol"] | PROTOCOL == result["protocol"]


def test_actions_are_those_of_the_written_weights_with_the_protocols_epsilon(watched):
    """Each episode has its own generator, of its seed: explored steps and actions are worked out again."""
    explored, steps = 0, 0
    for envs in watched.groups():
        best, acted = greedy_actions(watched.net, envs.stacked()[:-1]), np.stack(envs.acted)
        for i, seed in enumerate(envs.seeds[0]):
            rng = np.random.default_rng(seed)
            for t in range(len(acted)):
                explore = rng.random() < PROTOCOL["epsilon"]
                assert acted[t, i] == (rng.integers(ACTIONS) if explore else best[t, i]), (t, i)
                explored, steps = explored + explore, steps + 1
    assert 0.2 < explored / steps < 0.4


def test_scores_are_raw_scores_of_first_episodes_and_the_mean_is_of_the_protocols(watched):
    episodes = [e for envs in watched.groups() for e in first_episodes(envs)]
    result = watched.result
    found = [(e["score"], e["length"]) for e in result["episodes"] + result["extra_episodes"]]
    assert found == episodes
    assert len(result["episodes"]) == EPISODES
    assert len(result["extra_episodes"]) == EXTRA
    assert result["score"] == pytest.approx(np.mean([score for score, _ in episodes[:EPISODES]]))
    assert result["score"] != pytest.approx(np.mean([score for score, _ in episodes]))
    assert any(envs.column("truncated").any() for envs in watched.groups())
    assert any((envs.column("done").sum(axis=0) > 1).any() for envs in watched.groups())  # and played on
    assert result["weights_agent_step"] == 1234


def test_however_many_are_played_at_once_they_are_the_same_episodes(watched):
    """More than a group in one call, and from the middle on."""
    whole = watched.agent.play(EPISODES)
    assert [e.as_row() for e in whole] == watched.result["episodes"]
    assert [e.seed for e in watched.agent.play(4, first=7)] == [e.seed for e in whole[7:11]]
    assert not {e.seed for e in watched.agent.play(EPISODES, seed=SEED + 1)} & {e.seed for e in whole}


def test_films_are_of_the_median_and_the_best_episode(watched):
    scores = [e["score"] for e in watched.result["episodes"]]
    films = [
        envs for (_, o), envs in zip(watched.asked, watched.made, strict=True) if o["keep_rgb"] and envs.acted
    ]
    median, best = watched.result["video"]["episode"], watched.result["best_video"]["episode"]
    assert scores[median] == sorted(scores)[6]
    assert scores[best] == max(scores)
    for envs, number in zip(films, (median, best), strict=True):
        group = watched.groups()[number // 10]
        assert envs.seeds == group.seeds


# --- seeds ---


def training_seeds(seed: int, envs: int, episodes: int) -> set[int]:
    """Every explicit seed that a training may give its environments."""
    games, found = ReplayableEnvs(envs, seed, None), set()
    for episode in range(episodes):
        games._episodes[:] = episode
        found |= set(games._explicit_seeds(np.ones(envs, bool)).tolist())
    return found


def test_no_game_of_the_evaluation_is_one_of_the_training_or_of_a_phase(monkeypatch):
    """Seeds are of three kinds, and of each run its own."""
    phases = []
    monkeypatch.setattr(
        protocol, "make_envs", lambda config, task, n, seed, **o: phases.append(seed) or Games(n)
    )
    task = papers.resolve("dqn", None, "pong", "paper").task
    for run_seed in (0, 1, 2):
        for number in range(20):
            protocol.evaluation_phase(
                dqn,
                dqn.Config(**SETTINGS | {"evaluation_steps": 1}),
                task,
                lambda s, r: np.zeros(len(s), int),
                run_seed,
                number,
            )
    final = [s for run_seed in (0, 1, 2) for s in protocol.episode_seeds(run_seed, 0, 130).tolist()]
    training = set().union(*(training_seeds(run_seed, 8, 30) for run_seed in (0, 1, 2)))
    assert len(set(phases)) == len(phases) == 60
    assert len(set(final)) == len(final) == 390
    assert len(training) == 3 * 8 * 30
    assert not training & set(final)
    assert not training & set(phases)
    assert not set(phases) & set(final)


# --- phases of a training ---


def test_a_phase_is_the_scripts(monkeypatch):
    """Its own epsilon, steps and no-ops, the protocol's cap, a game of its own; scores of the games that ended, raw."""
    made = []

    def make_envs(config, task, num_envs, seed, **options):
        made.append((config, num_envs, seed, options, Games(num_envs)))
        return made[-1][-1]

    monkeypatch.setattr(protocol, "make_envs", make_envs)
    task, config = (
        papers.resolve("dqn", None, "pong", "paper").task,
        dqn.Config(**SETTINGS | {"evaluation_epsilon": 0.25}),
    )
    torch.manual_seed(3)
    net = dqn.make_network(config, spaces(ACTIONS, (3,)))
    before = copy.deepcopy(net.state_dict())
    scores = protocol.evaluation_phase(dqn, config, task, dqn.make_policy(net, config), 5, 2, 321)
    config_given, n, seed, options, envs = made[0]
    assert (config_given, n, options) == (config, 1, {"max_frames": 321})
    assert len(envs.acted) == config.evaluation_steps
    best, rng = greedy_actions(net, envs.stacked()[:-1]), np.random.default_rng(seed)
    for t, action in enumerate(np.stack(envs.acted)[:, 0]):
        assert action == (rng.integers(ACTIONS) if rng.random() < 0.25 else best[t, 0]), t
    done, rewards, wanted, total = envs.column("done")[:, 0], envs.column("rewards")[:, 0], [], 0.0
    for over, reward in zip(done, rewards, strict=True):
        total += reward
        if over:
            wanted.append(total)
            total = 0.0
    assert len(wanted) > 3
    assert scores.tolist() == wanted
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_training_asks_for_its_phases_with_its_own_seed_and_the_protocols_cap(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "evaluation_phase", lambda *given: asked.append(given) or np.array([1.0]))
    run, script, config, _ = open_run("dqn", "pong", tmp_path, {"evaluation_epsilon": 0.2}, seed=6)
    try:
        for number in (0, 3):
            assert run.evaluate("a policy", Progress(evaluations=number)).tolist() == [1.0]
    finally:
        run.close()
    cap = run.resolved.protocol.max_frames
    assert cap is not None
    for number, given in zip((0, 3), asked, strict=True):
        assert given[:7] == (script, config, run.task, "a policy", 6, number, cap)


@pytest.mark.parametrize("score", ["evaluation_mean", "last_100_episodes"])
def test_two_phases_in_a_row_at_the_published_score_end_a_training(score, tmp_path, monkeypatch):
    """18.9 of Pong; not where the score is of the training's own last episodes, which would be its own stopping rule."""
    phases, reached = iter([19.0, 18.8, 18.9, 20.0]), []
    monkeypatch.setattr(runs, "evaluation_phase", lambda *_: np.array([next(phases)]))
    run, *_ = open_run("dqn", "pong", tmp_path, {}, stop_when_reached=True)
    run.resolved = replace(run.resolved, protocol=replace(run.resolved.protocol, score=score))
    try:
        for _ in range(4):
            run.evaluate("a policy", Progress())
            reached.append(run.published_score_reached())
    finally:
        run.close()
    assert reached == [False, False, False, score == "evaluation_mean"]


def test_of_two_phases_with_the_best_score_the_first_is_kept():
    progress, best = Progress(), torch.nn.Linear(1, 1)
    for step, scores in enumerate(([1.0, 2.0], [4.0, 6.0], [5.0], [], [3.0]), start=1):
        progress.agent_steps, network = step, torch.nn.Linear(1, 1)
        torch.nn.init.constant_(network.weight, step)
        progress.keep_best(np.array(scores), network, best)
    assert (progress.best_score, progress.best_agent_step, best.weight.item()) == (5.0, 2, 2.0)
