"""All chance of a run comes from its seed: the learner's generator and the environments."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from common import papers

OWN = {"a3c", "alphago_zero"}  # their workers have seeds of their own, made of the run's
SCRIPTS = sorted(name for name, paper in papers.load_papers().items() if paper.fields() and name not in OWN)


class Asked(Exception):
    """The environments were asked for."""


@pytest.mark.parametrize("paper", SCRIPTS)
def test_the_generator_and_the_environments_have_the_seed_of_the_run(paper, monkeypatch):
    script, seeds, new = importlib.import_module(f"replications.{paper}.train"), [], np.random.default_rng

    def default_rng(seed):
        seeds.append(seed)
        return new(seed)

    def make_envs(config, task, num_envs, seed, **options):
        seeds.append(seed)
        raise Asked

    monkeypatch.setattr(np.random, "default_rng", default_rng)
    monkeypatch.setattr(script, "make_envs", make_envs)
    with pytest.raises(Asked):
        script.train(script.Config(), SimpleNamespace(seed=6, task=None))
    assert seeds == [6, 6]
