"""When a game ends although nobody lost it: each paper's limit, as its settings reach the emulator."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from common.environments.atari import NO_CAP
from common.environments.make import make_envs
from common.papers import load_paper, resolve

XITARI = ("dqn", "dqn_2013", "double_dqn", "prioritized_dqn", "dueling_dqn", "rainbow", "a3c")
HALF_AN_HOUR = 108_000  # frames


def environments(paper: str, game: str, **options):
    settings = resolve(paper, None, game, "paper").settings
    config = importlib.import_module(f"replications.{paper}.train").Config(**settings)
    envs = make_envs(config, SimpleNamespace(kind="atari", game=game), 1, 0, **options)
    envs.close()
    return envs


@pytest.mark.parametrize("paper", XITARI)
def test_xitari_ends_games_in_training_and_in_evaluation(paper):
    """Eight hours, Pong 65,000 frames; where the paper has a cap of its own, that comes first in training."""
    for game, limit in (("pong", 65_000), ("breakout", 1_728_000)):
        training = environments(paper, game)
        assert training._limit == limit
        assert training.max_steps == (HALF_AN_HOUR // 4 if paper in ("rainbow", "a3c") else None)
    for cap, steps in ((18_000, 4_500), (None, None)):  # of an evaluation
        evaluation = environments(paper, "pong", max_frames=cap)
        assert (evaluation._limit, evaluation.max_steps, evaluation.max_unchanged) == (65_000, steps, 4_500)


@pytest.mark.parametrize("paper", ["a2c", "ppo"])
def test_gym_cuts_games_in_training(paper):
    """After 400,000 frames, Space Invaders after 300,000, in every variant that plays it."""
    for game, cap in (("breakout", 400_000), ("space_invaders", 300_000)):
        envs = environments(paper, game)
        assert (envs._limit, envs.max_steps, envs.max_unchanged) == (NO_CAP, cap // 4, 4_500)
    playing = [n for n, variant in load_paper(paper).variants.items() if "space_invaders" in variant.tasks]
    assert "" in playing
    for name in playing:
        assert resolve(paper, name or None, "space_invaders", "paper").settings["max_frames"] == 300_000
        assert resolve(paper, name or None, "space_invaders", "hour").settings["max_frames"] == 300_000
