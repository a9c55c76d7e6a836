"""Q-learning as a trained task: the rule by hand, the table that is kept, its loop watched, exact resume."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.environments.grids import TASKS, draw_grid, grid_of
from common.environments.vector import GymEnvs
from common.errors import UserError
from common.evaluation.protocol import Agent, evaluate_run
from replications.q_learning import exact
from replications.q_learning import train as q
from tests.training import train, train_in_two

TINY = {
    "training_steps": 400,
    "final_exploration_step": 200,
    "evaluation_period": 200,
    "evaluation_steps": 100,
    "pictures": 4,
}


def test_target_by_hand():
    """alpha .5, gamma .9, Q 2, r 1: 3.3 with next values 3 and 4; 1.5 where the episode has ended."""
    assert 0.5 * 2 + 0.5 * q.q_target(1.0, np.array([3.0, 4.0]), False, 0.9) == pytest.approx(3.3)
    assert 0.5 * 2 + 0.5 * q.q_target(1.0, np.array([3.0, 4.0]), True, 0.9) == pytest.approx(1.5)


def test_step_sizes_count_the_visits_of_the_pair():
    """(n + 1)^-w: below 1 from the first visit on, as the theorem asks."""
    config = q.Config(exponent=0.75)
    assert [q.step_size(n, config) for n in (1, 15)] == pytest.approx([2**-0.75, 1 / 8])
    assert q.step_size(16, replace(config, constant_step=0.3)) == 0.3


def test_exploration_is_linear():
    config = q.Config(final_exploration_step=100)
    assert [q.exploration(step, config) for step in (0, 50, 100, 1000)] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_ties_are_broken_at_random():
    rng, values = np.random.default_rng(1), np.array([1.0, 2.0, 2.0, 0.0])
    seen = [q.act(values, 0.0, rng) for _ in range(400)]
    assert set(seen) == {1, 2}
    assert 150 < seen.count(1) < 250


def test_pictures_are_close_together_at_the_beginning_and_the_last_is_the_end():
    steps = q.picture_steps(q.Config(training_steps=1600, pictures=4))
    assert steps == [100, 400, 900, 1600]


def test_loop_by_a_spy(tmp_path, monkeypatch):
    """Every step makes one target, an episode ends where its target is told so, and the history ends with the table."""
    seen = []
    real = q.q_target

    def spy(reward, next_values, ended, discount):
        seen.append((reward, next_values.copy(), ended))
        return real(reward, next_values, ended, discount)

    monkeypatch.setattr(q, "q_target", spy)
    folder = train("q_learning", "frozen_lake", tmp_path, TINY)
    assert len(seen) == 400
    rows = list(csv.DictReader((folder / "episodes.csv").open()))
    assert sum(ended for *_, ended in seen) == len(rows)
    weights = load_file(folder / "model.safetensors")
    assert weights["q"].shape == (16, 4)
    assert (weights["history"][-1] == weights["q"].float()).all()


def test_the_curves_exact_return_is_within_the_tasks_time_limit(tmp_path):
    """Of the greedy policy of now: 100 steps of FrozenLake, which Gymnasium sets, 20 of CliffWalking, which the setting does."""
    for task, env_id, steps in (("frozen_lake", "FrozenLake-v1", 100), ("cliff", "CliffWalking-v1", 20)):
        folder = train("q_learning", task, tmp_path, TINY | {"most_steps": 20})
        last = list(csv.DictReader((folder / "curve.csv").open()))[-1]
        policy = exact.greedy(load_file(folder / "model.safetensors")["q"].numpy(), 0.0)
        model = exact.gym_model(env_id)
        assert float(last["exact_return"]) == pytest.approx(exact.limited_return(model, policy, steps))


def test_a_time_limit_is_bootstrapped_through(tmp_path, monkeypatch):
    """CliffWalking cut after 20 steps: no target is told that the episode ended, and episodes are logged."""
    ends = []
    real = q.q_target
    monkeypatch.setattr(q, "q_target", lambda r, v, ended, d: (ends.append(ended), real(r, v, ended, d))[1])
    folder = train("q_learning", "cliff", tmp_path, TINY | {"training_steps": 100, "most_steps": 20})
    assert len(list(csv.DictReader((folder / "episodes.csv").open()))) == 5
    assert not any(ends)


@pytest.mark.parametrize(
    ("task", "change"), [("frozen_lake", {}), ("taxi", {}), ("cliff", {"most_steps": 30})]
)
def test_the_table_is_that_of_the_rule_written_again(task, change, tmp_path, monkeypatch):
    """From what the environment was asked and answered alone: the table, every value that was acted on, and every epsilon."""
    seen, shown = [], []
    recorded(monkeypatch, q, seen)
    real = q.act
    monkeypatch.setattr(q, "act", lambda v, e, rng: (shown.append((v.copy(), e)), real(v, e, rng))[1])
    # no evaluation, which acts as well
    folder = train("q_learning", task, tmp_path, TINY | {"evaluation_period": 1000} | change)
    run = json.loads((folder / "run.json").read_text())
    c = q.Config(**run["settings"])
    table, visits = np.zeros_like(load_file(folder / "model.safetensors")["q"].numpy()), {}
    state = seen.pop(0)[1]
    for t, (action, then, reward, over, fresh) in enumerate(seen):
        values, epsilon = shown[t]
        assert values == pytest.approx(table[state])
        assert epsilon == pytest.approx(max(1 - 0.9 * t / 200, 0.1) if task == "frozen_lake" else 0.1)
        n = visits[state, action] = visits.get((state, action), 0) + 1
        alpha = {"frozen_lake": (n + 1) ** -0.6, "taxi": 0.1, "cliff": 0.5}[task]
        following = 0 if over else c.discount * max(table[then])
        table[state, action] = (1 - alpha) * table[state, action] + alpha * (reward + following)
        state = then if fresh is None else fresh
    assert t == 399
    assert load_file(folder / "model.safetensors")["q"].numpy() == pytest.approx(table)
    ends = sum(fresh is not None for *_, fresh in seen)
    assert ends == len(list(csv.DictReader((folder / "episodes.csv").open())))
    assert ends > 0


def recorded(monkeypatch, script, seen: list) -> None:
    """What one environment is asked and answers: (None, state) of the start; (action, state, reward, game over, state of the next start)."""
    real = script.make_envs

    def make(*args):
        envs = real(*args)
        reset, step, again = envs.reset, envs.step, envs.reset_where
        envs.reset = lambda: (lambda obs: (seen.append((None, int(obs[0]))), obs)[1])(reset())

        def stepped(actions):
            answer = step(actions)
            seen.append(
                (
                    int(actions[0]),
                    int(answer.obs[0]),
                    float(answer.rewards[0]),
                    bool(answer.game_over[0]),
                    None,
                )
            )
            return answer

        def restarted(mask):
            obs = again(mask)
            if seen:
                seen[-1] = (*seen[-1][:4], int(obs[0]))
            return obs

        envs.step, envs.reset_where = stepped, restarted
        return envs

    monkeypatch.setattr(script, "make_envs", make)


@pytest.mark.parametrize("task", ["frozen_lake", "taxi", "cliff"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(task, tmp_path, monkeypatch):
    whole = train("q_learning", task, tmp_path / "whole", TINY)
    resumed = train_in_two(230, "q_learning", task, tmp_path / "resumed", TINY)
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_cliff_is_learned_and_plays_its_optimum(tmp_path):
    folder = train("q_learning", "cliff", tmp_path, {"pictures": 5}, budget="paper")
    assert evaluate_run(folder, "cpu")["score"] == -13
    curve = list(csv.DictReader((folder / "curve.csv").open()))
    assert float(curve[-1]["exact_return"]) == -13
    assert float(curve[-1]["largest_error"]) < float(curve[0]["largest_error"])
    episode = Agent(folder, "cpu").play(1, film=0)[0]
    assert len(episode.screens) == 13
    assert episode.action_values.kind == "values"
    assert (folder / "episode.mp4").exists()


@pytest.mark.parametrize("change", [{"exponent": 0.5}, {"constant_step": 1.5}, {"discount": -0.1}])
def test_bad_settings(change, tmp_path):
    with pytest.raises(UserError, match="is not allowed; "):
        train("q_learning", "cliff", tmp_path, TINY | change)


def test_largest_error_looks_at_visited_states_only():
    values, optimal = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[2.5, 0.0], [9.0, 9.0]])
    assert q.largest_error(values, optimal, np.array([[0, 1], [0, 0]])) == 0.5
    assert q.largest_error(values, optimal, np.array([[0, 1], [1, 0]])) == 9


# --- grids ---


@pytest.mark.parametrize("env_id", TASKS)
def test_grids_are_gymnasiums(env_id):
    """Every state has a cell, actions that move go to the neighbour they say, and pictures differ by state."""
    grid, model = grid_of(env_id), exact.gym_model(env_id)
    envs = GymEnvs(env_id, 1, 1, most_steps=10)
    assert envs.num_actions == len(grid.actions)
    assert len(grid.cell_of) == len(grid.view_of) == len(model.rewards)
    moves = {"left": -1, "right": 1, "up": -grid.columns, "down": grid.columns}
    for state in range(len(grid.cell_of)):
        for action, name in enumerate(grid.actions):
            cell = grid.cell_of[state] + moves.get(name, 0)
            reached = {grid.cell_of[s] for s in np.flatnonzero(model.transitions[state, action])}
            if reached and env_id == "Taxi-v4":
                wall = (name == "right" and divmod(grid.cell_of[state], 5) in grid.walls) or (
                    name == "left" and divmod(grid.cell_of[state] - 1, 5) in grid.walls
                )
                inside = 0 <= cell < 25 and not (
                    name in ("left", "right") and cell // 5 != grid.cell_of[state] // 5
                )
                assert reached == {cell if inside and not wall else grid.cell_of[state]}, (state, name)
    first, second = draw_grid(grid, 0), draw_grid(grid, 1)
    assert first.shape == (210, 160, 3)
    assert (first != second).any()
    envs.reset()
    assert envs.screen(0).shape == (210, 160, 3)
    assert grid_of("CartPole-v1") is None
    if env_id == "CliffWalking-v1":
        assert (grid.cells[36:], grid.views) == ("S" + 10 * "C" + "G", ("",))


def test_a_table_looks_up_rows():
    table = q.Table(3, 2, 1)
    table.q[1] = torch.tensor([4.0, 5.0])
    assert table(torch.tensor([[1.0], [2.0]])).tolist() == [[4, 5], [0, 0]]
