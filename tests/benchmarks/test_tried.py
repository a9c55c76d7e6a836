"""What was tried does the same work as what is kept; and the README's table is that of tried.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import timeline, tried
from common.learning.replay import Replay
from common.learning.replay_on_device import ReplayOnDevice
from replications.dqn import train as dqn


def test_the_readme_has_the_table_of_the_results():
    found = json.loads(tried.RESULTS.read_text())
    readme = tried.README.read_text()
    assert timeline.put(readme, tried.table(found), tried.BEGIN, tried.END) == readme, (
        "run ./run python -m benchmarks.tried --write"
    )
    assert timeline.BEGIN in readme  # the other table stands


def test_the_recorded_comparisons_are_all_and_say_whether_the_machine_was_quiet():
    found = json.loads(tried.RESULTS.read_text())
    assert found["quiet"] is (not found["warnings"])
    expected = [(c.name, c.threads) for c in tried.comparisons(2000, cores=2, sizes=(32, 256))]
    assert [(row["name"], row["threads"]) for row in found["rows"]] == expected
    assert len(set(expected)) == len(expected) == 19


def test_rows_say_which_side_is_which():
    row = {"name": "x", "work": "W", "tried_is": "T", "kept_is": "K", "threads": 2}
    row |= {
        "tried": {"median": 3.0},
        "kept": {"median": 2.0},
        "tried_over_kept": {"median": 1.5, "spread": [1.4, 1.75]},
    }
    about = {"machine": {"cpu": "C", "cores": 2}, "versions": {"torch": "9"}, "date": "2026-01-02T03"}
    text = tried.table(about | {"quiet": False, "warnings": ["too loud"], "rows": [row]})
    assert text.splitlines()[-1] == "| W | T | K | 2 | 3 | 2 | 1.50 (1.40 to 1.75) |"
    assert "not a quiet machine: too loud" in text
    assert "; a quiet machine" in tried.table(about | {"quiet": True, "warnings": [], "rows": []})


def test_sides_take_turns_and_ratios_are_of_the_round(monkeypatch):
    times = {"kept": iter([9.0, 1.0, 2.0]), "tried": iter([9.0, 3.0, 8.0])}  # the first round warms up
    order = []

    def slice_of(call, seconds):
        order.append((call(), torch.get_num_threads(), seconds))
        return next(times[order[-1][0]])

    monkeypatch.setattr(tried, "slice_of", slice_of)
    before = torch.get_num_threads()
    try:
        rows = tried.measure(
            [tried.Comparison("n", "w", "t", "k", 1, lambda: "kept", lambda: "tried")], rounds=2, seconds=0.5
        )
    finally:
        torch.set_num_threads(before)
    assert order == [("kept", 1, 0), ("tried", 1, 0), *[("kept", 1, 0.5), ("tried", 1, 0.5)] * 2]
    assert rows[0]["kept"]["median"] == 1.5
    assert rows[0]["tried_over_kept"] == {"median": 3.5, "spread": [3.0, 4.0], "unit": "ratio", "n": 2}


def test_both_ways_of_gathering_give_the_same_batch():
    replay = Replay(500, (84, 84))
    tried.fill(replay)
    copy = ReplayOnDevice(replay, "cpu")
    copy.load()
    indices = replay.draw(np.random.default_rng(0), 32)
    mine, other = replay.gather(indices), copy.gather(copy.flat_indices(indices))
    assert torch.equal(mine.states, other.states)
    assert torch.equal(mine.next_states, other.next_states)
    kept, torchs = tried.batches(500)
    assert kept().states.shape == torchs().states.shape == (32, 4, 84, 84)


@pytest.mark.parametrize(
    "layers", [layers for *_, layers in tried.NETWORKS], ids=[n for n, *_ in tried.NETWORKS]
)
def test_the_other_forms_are_the_same_network(layers):
    torch.manual_seed(0)
    plain, other = dqn.NatureNetwork(6), tried.other_network(layers())
    with torch.no_grad():
        for mine, its in zip(plain.parameters(), other.parameters(), strict=True):
            its.copy_(mine.reshape(its.shape))
    states = torch.randint(256, (2, 4, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(other(states), plain(states), rtol=1e-4, atol=1e-5)
    assert any(type(a) is not type(b) for a, b in zip(plain.layers, other.layers, strict=True))


def test_the_optimisers_differ_only_in_where_epsilon_stands():
    """With epsilon 0 the two rules are the same, so it is the same work that is compared."""
    weights, config = torch.nn.Linear(5, 3), dqn.Config(min_squared_gradient=0.0)
    other = torch.nn.Linear(5, 3)
    other.load_state_dict(weights.state_dict())
    mine = dqn.RMSProp(weights, config)
    theirs = torch.optim.RMSprop(
        other.parameters(), lr=config.learning_rate, alpha=0.95, eps=0.0, centered=True
    )
    for _ in range(5):
        mine.gradient.normal_()
        for p, q in zip(weights.parameters(), other.parameters(), strict=True):
            q.grad = p.grad.clone()
        mine.step()
        theirs.step()
    torch.testing.assert_close(weights.weight, other.weight, rtol=1e-4, atol=1e-6)


def test_acting_with_one_thread_gives_the_threads_back(monkeypatch):
    switched = []
    monkeypatch.setattr(torch, "set_num_threads", switched.append)
    together, alone = tried.actions(2)
    assert together() in range(tried.ACTIONS)
    assert switched == []
    assert alone() in range(tried.ACTIONS)
    assert switched == [1, 2]


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(tried.UserError, match="tried"):
        timeline.put(f"{timeline.BEGIN}\n{timeline.END}", "x", tried.BEGIN, tried.END)
    assert Path(tried.README).name == "README.md"
