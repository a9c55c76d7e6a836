"""Phases, final episodes, replays: with a policy that needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch

from common.environments.vector import GymEnvs
from common.errors import UserError
from common.evaluation import protocol as evaluation
from common.evaluation.playing import ReturnMeter, choose, play_group, play_steps
from common.evaluation.protocol import Agent, episode_seeds, evaluate_run, load_weights, replay_recorded
from tests.training import spaces, train


def lean(states: np.ndarray, rngs: list) -> np.ndarray:
    """Keeps a pole up for a while: pushes to the side it falls to."""
    return (states[:, -1, 2] + 0.5 * states[:, -1, 3] > 0).astype(np.int64)


def test_a_phase_drops_the_last_partial_episode():
    def scores(steps: int) -> np.ndarray:
        envs = GymEnvs("CartPole-v1", 1, seed=3)
        return play_steps(
            lambda s, r: np.zeros(len(s), np.int64), envs, 1, steps, 0.0, np.random.default_rng(0)
        )

    all_left = scores(60)
    assert all(7 <= s <= 12 for s in all_left)
    total = int(all_left.sum())
    assert total <= 60 < total + 12
    assert len(scores(total)) == len(all_left)  # ends exactly with its last step
    assert len(scores(total - 1)) == len(all_left) - 1  # one step short: that episode is partial


def test_epsilon_replaces_actions_at_its_rate():
    rngs = [np.random.default_rng(i) for i in range(2000)]
    actions = choose(lambda s, r: np.full(len(s), 7), np.zeros((2000, 1)), 0.05, rngs, 4)
    assert 0.03 < (actions != 7).mean() < 0.07
    assert set(actions[actions != 7]) == {0, 1, 2, 3}
    assert (choose(lambda s, r: np.full(len(s), 7), np.zeros((2000, 1)), 0.0, rngs, 4) == 7).all()


def test_an_episode_is_a_function_of_its_seed():
    """The same seeds in another order, beside others, give the same episodes, whole ones."""
    seeds = episode_seeds(1, 0, 6)
    one = play_group(lean, GymEnvs("CartPole-v1", 6, 0), 1, seeds, 0.2)
    two = play_group(lean, GymEnvs("CartPole-v1", 6, 99), 1, seeds[::-1], 0.2)
    assert [e.as_row() for e in one] == [e.as_row() for e in two[::-1]]
    assert len({e.score for e in one}) > 1
    assert all(e.score == e.length for e in one)


def test_discounted_returns_are_those_of_every_state_averaged():
    """Against the definition: clipped rewards after each state, discounted, up to a lost life; two environments at once."""
    rng, length = np.random.default_rng(0), 40
    rewards, lost = rng.normal(size=(length, 2)) * 2, rng.random((length, 2)) < 0.1
    assert lost.any(axis=0).all()

    def measured(**settings) -> list[float | None]:
        meter = ReturnMeter(2, SimpleNamespace(**settings))
        for r, life_lost in zip(rewards, lost, strict=True):
            meter.add(SimpleNamespace(rewards=r, life_lost=life_lost))
        return [meter.mean(i, length) for i in range(2)]

    def defined(i: int, discount: float, clip: float, lives_end: bool) -> float:
        total = 0.0
        for t in range(length):
            for k in range(t, length):
                total += discount ** (k - t) * float(np.clip(rewards[k, i], -clip, clip))
                if lives_end and lost[k, i]:
                    break
        return total / length

    for clip, lives_end in ((1.0, True), (1.0, False), (1e9, True)):
        expected = [defined(i, 0.9, clip, lives_end) for i in range(2)]
        assert measured(discount=0.9, reward_clip=clip, life_loss_terminal=lives_end) == pytest.approx(
            expected
        )
    assert measured(discount=0.9, life_loss_terminal=True) == pytest.approx(expected)
    assert measured(reward_clip=1.0) == [None, None]


def test_episode_seeds_differ_by_run_and_do_not_depend_on_how_many_follow():
    assert episode_seeds(1, 0, 30).tolist()[10:20] == episode_seeds(1, 10, 10).tolist()
    assert len(set(episode_seeds(1, 0, 130).tolist()) | set(episode_seeds(2, 0, 130).tolist())) == 260


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    settings = {
        "training_steps": 1500, "replay_start": 200, "evaluation_period": 500, "evaluation_steps": 300, "replay_capacity": 1000,
    }  # fmt: skip
    folder = train("dqn", "cartpole", tmp_path_factory.mktemp("cartpole"), settings, budget="hour")
    evaluate_run(folder, "cpu")
    return folder


def test_final_evaluation_follows_the_protocol(finished):
    result = json.loads((finished / "evaluation.json").read_text())
    assert len(result["episodes"]) == 30
    assert len(result["extra_episodes"]) == 100
    assert result["score"] == pytest.approx(np.mean([e["score"] for e in result["episodes"]]))
    assert all(0 < e["score"] <= 500 for e in result["episodes"])
    assert len({e["seed"] for e in result["episodes"] + result["extra_episodes"]}) == 130
    for e in result[
        "episodes"
    ]:  # a reward of 1 a step, discounted by .99: the mean over the states of (1 - .99^left) / .01
        left = np.arange(1, e["length"] + 1)
        assert e["discounted_return"] == pytest.approx(np.mean((1 - 0.99**left) / 0.01))
    assert (finished / "episode.mp4").stat().st_size > 1000


def test_median_and_best_episode_are_filmed_whole(finished):
    from common.evaluation.video import read_mp4

    result = json.loads((finished / "evaluation.json").read_text())
    scores = [e["score"] for e in result["episodes"]]
    assert result["video"]["score"] == sorted(scores)[14]
    assert result["best_video"]["score"] == max(scores) > result["video"]["score"]
    for key, name in (("video", "episode.mp4"), ("best_video", "best.mp4")):
        length = result["episodes"][result[key]["episode"]]["length"]
        assert sum(1 for _ in read_mp4(finished / name)) == length


def test_action_values_of_the_filmed_episodes_are_kept(finished):
    """The trained network asked again about the first state of both films; from there on, one row and action a picture."""
    result = json.loads((finished / "evaluation.json").read_text())
    kept = json.loads((finished / "values.json").read_text())
    assert (kept["kind"], kept["actions"]) == ("values", ["push left", "push right"])
    assert kept["weights_sha256"] == result["weights_sha256"]
    assert result["score_of"] == {"kind": "evaluation_mean", "episodes": 30}
    agent = Agent(finished, "cpu")
    q = agent.script.make_network(agent.config, spaces(2, (4,)))
    load_weights(q, safetensors.torch.load_file(finished / "model.safetensors"))
    for key, name in (("video", "median"), ("best_video", "best")):
        film, number = kept["films"][name], result[key]["episode"]
        assert film["episode"] == number
        episode = result["episodes"][number]
        count = min(episode["length"], 675)
        assert (len(film["values"]), len(film["played"])) == (count, count)
        first = agent._envs(1).reset(np.array([episode["seed"]]))
        states = torch.zeros(1, agent.config.stack, 4)
        states[0, -1] = torch.from_numpy(first[0])
        assert film["values"][0] == pytest.approx(q(states)[0].tolist(), rel=1e-3)
        for row, played in zip(
            film["values"], film["played"], strict=True
        ):  # epsilon is 0: the best, up to rounding
            assert row[played] == pytest.approx(max(row), rel=1e-3)


def test_which_episodes_are_filmed():
    assert evaluation.episodes_to_film([3.0, 1.0, 2.0]) == (2, 0)
    assert evaluation.episodes_to_film([5.0, 5.0, 5.0]) == (
        1,
        None,
    )  # the best is no better: one video says it all
    assert evaluation.episodes_to_film([-21.0, -20.0]) == (0, 1)


def test_recorded_episodes_come_out_identical_and_a_changed_score_is_noticed(finished):
    check = replay_recorded(finished, 10, "cpu")
    assert (check["replayed"], check["identical"]) == (10, 10)
    assert check["replayed_mean"] == check["recorded_mean"]
    path = finished / "evaluation.json"
    original = path.read_text()
    edited = json.loads(original)
    edited["episodes"][3]["score"] += 1
    path.write_text(json.dumps(edited))
    assert replay_recorded(finished, 10, "cpu")["identical"] == 9
    path.write_text(original)


def test_weights_other_than_the_recorded_are_refused(finished, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(UserError, match="is not the file that"):
        replay_recorded(copy, 10, "cpu")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"])
def test_torn_weights_are_one_clear_error(finished, tmp_path, content):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True)
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be used .*train that run again"):
        Agent(copy, "cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is damaged"), ('{"paper": "dqn"}', "no 'variant'"), (None, "has not finished")],
)
def test_torn_run_json_is_one_clear_error(tmp_path, content, words):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=words):
        evaluation.read_run(tmp_path)


def test_weights_of_other_shapes_are_named():
    with pytest.raises(ValueError, match=r"weight.*\(2, 3\)|\(3, 2\)"):
        load_weights(torch.nn.Linear(2, 3, bias=False), {"weight": torch.zeros(2, 3)})
