"""CartPole, the toy task: the same scripts and updates as on screens, four numbers to look at.

Which agent step solves it depends on rounding, and so on the processor: of 25 recorded trainings of five
papers one stood at 500 after 2,500 steps, another at 200 until 40,000. So a short training must only have
learned something: by 10,000 steps (Rainbow: 5,000) the worst of the 25 had reached 127. Random play scores 22.
"""

from __future__ import annotations

import pytest

from common.evaluation.protocol import evaluate_run
from tests.training import train

STEPS = {
    "dqn_2013": 15_000, "dqn": 10_000, "double_dqn": 10_000, "prioritized_dqn": 10_000,
    "dueling_dqn": 10_000, "rainbow": 5_000,
}  # fmt: skip
TWINS = ("double_dqn", "dueling_dqn")  # their loops are those of dqn and prioritized_dqn, and watched as well


@pytest.mark.parametrize(
    "paper",
    [pytest.param(paper, marks=pytest.mark.long if paper in TWINS else pytest.mark.slow) for paper in STEPS],
)
def test_a_short_training_learns(paper, tmp_path):
    folder = train(paper, "cartpole", tmp_path, {"training_steps": STEPS[paper]}, seed=1, budget="hour")
    assert evaluate_run(folder, "cpu")["score"] >= 100


@pytest.mark.long
@pytest.mark.parametrize("paper", [paper for paper in STEPS if paper != "dqn_2013"])
def test_the_whole_training_solves_it(paper, tmp_path):
    """Every recorded training of this size and seed ended at 500; dqn_2013's, without a target network, do not."""
    folder = train(paper, "cartpole", tmp_path, {}, seed=1, budget="hour")
    assert evaluate_run(folder, "cpu")["score"] >= 475
