"""Names, bounds and checks as a reader is told them."""

from pathlib import Path

import pytest

from common.papers import Claim, find_task, load_paper
from reports.claims_page import bound_is_ours, compared
from reports.runs import SeedRun
from reports.scores import length_of
from reports.words import ordinal, protocol_name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "noop30_5min_eps0.05_30ep",
            "up to 30 no-ops at the start, at most 5 minutes of play, epsilon 0.05, 30 episodes",
        ),
        ("human_starts_30min", "human starts, at most 30 minutes of play"),
        ("random_10hz_5min", "random, 10 actions a second, at most 5 minutes of play"),
        ("train_last100_40Mframes_3seeds", "in training, the last 100 episodes, 40 million frames, 3 seeds"),
    ],
)
def test_protocols_are_told_in_words(name, words):
    assert protocol_name(name) == words


def test_places_are_told_in_words():
    assert [*map(ordinal, (1, 2, 3, 4, 11, 12, 13, 21, 22, 113))] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "113th"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "ours"),
    [
        ({"at_least": 0.9}, True),
        ({"at_least": 0.9, "bound": "printed"}, False),
        ({"at_least": 0}, False),  # a comparison, not a line
        ({"at_least": 1, "factor": True}, False),
        ({"at_most": 1}, True),
    ],
)
def test_whose_a_bound_is(bounds, ours):
    assert bound_is_ours(Claim("a", "It holds", "m", "Figure 1", **bounds)) is ours


def test_a_check_that_passed_within_rounding_passed():
    run = SeedRun(Path("x"), "recorded", "paper", 1, "finished", measures={"m": 1.0, "n": 2.0})
    near = compared(run, {"m": 1.0 + 1e-12, "n": 2.0}, "seed 1 was run again", 0.0)
    far = compared(run, {"m": 1.01, "n": 2.0}, "seed 1 was run again", 0.0)
    assert (near["ok"], far["ok"]) == (True, False)
    assert "within rounding" in near["sentence"]


@pytest.mark.parametrize(
    ("paper", "variant", "task", "words"),
    [
        ("dqn", None, "pong", "the paper's length"),
        ("ddpg", None, "hopper", "the length of the scores compared with"),
        ("ddpg", "no_batch_norm", "hopper", "a whole run"),  # Fujimoto et al. have no such agent
        ("ppo", None, "hopper", "the paper's length"),
    ],
)
def test_a_share_of_a_length_says_whose_it_is(paper, variant, task, words):
    assert length_of(find_task(load_paper(paper), variant, task)[1]) == words
