"""The MuJoCo tasks: which there are, how long, that nothing is compared, and the figures that stand there as context."""

from __future__ import annotations

import pytest

from common import papers
from common.evaluation.verdict import decide

TASKS = {
    "half_cheetah": "HalfCheetah", "hopper": "Hopper", "inverted_double_pendulum": "InvertedDoublePendulum",
    "inverted_pendulum": "InvertedPendulum", "reacher": "Reacher", "swimmer": "Swimmer", "walker2d": "Walker2d",
}  # fmt: skip
PPO2 = {"half_cheetah": 2149, "hopper": 2448, "walker2d": 3142}
CLEANRL = {"half_cheetah": 1442.6, "hopper": 2382.9, "inverted_pendulum": 963, "walker2d": 2287.9}


@pytest.fixture(scope="module")
def paper():
    return papers.load_paper("ppo")


def test_seven_tasks_of_a_million_steps_and_no_verdict(paper):
    for variant in ("", "no_clip", "adaptive_kl", "clip_01", "clip_03"):
        tasks = {t.name: t for t in paper.variants[variant].tasks.values() if t.kind == "gym" and t.in_paper}
        assert {name: task.env_id for name, task in tasks.items()} == {
            n: f"{env}-v5" for n, env in TASKS.items()
        }
        for name, task in tasks.items():
            resolved = papers.resolve(paper, variant or None, name, "paper")
            assert resolved.settings["training_steps"] == task.paper_frames == resolved.frames == 1_000_000
            assert (task.published, task.bar) == (None, None)
            verdict = decide(
                [3000.0] * 3, published=None, random=None, published_reason=task.published_reason
            )
            assert verdict.key == "no_published"
            assert task.published_reason in verdict.sentence


def test_figures_that_stand_there_as_context_are_those_of_the_table(paper):
    for name in TASKS:
        said = paper.tasks[name].published_reason
        for metric, words, known in (
            ("ppo2_rerun", "the released code (ppo2)", PPO2),
            ("cleanrl", "CleanRL", CLEANRL),
        ):
            if name in known:
                row = papers.find_row(paper.folder / "published.csv", name, metric)
                assert row.value == known[name]
                assert f"{words} {row.value:g} on " in said
            else:
                assert f"{words} " not in said
        assert ("For context, not to compare" in said) == (name in CLEANRL)
        if name not in PPO2:
            assert "of the released code there is no figure" in said


def test_a_smoke_size_is_not_called_the_papers(paper):
    for variant in (None, "clip_01", "clip_03"):
        found = {d.field: d.reason for d in papers.resolve(paper, variant, "hopper", "smoke").deviations}
        for name in ("training_steps", "rollout_steps", "epochs"):
            assert found[name] == "smoke size: teaches the agent nothing"
    found = {d.field: d.reason for d in papers.resolve(paper, None, "hopper", "paper").deviations}
    assert found["rollout_steps"].startswith("the paper's own constants for MuJoCo")
    assert "the paper names no number of actors" in found["num_envs"]
