"""What each setting may be: every field of every script has a range, and what is out of it is refused before anything runs."""

from __future__ import annotations

import importlib
import math
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import papers
from common.errors import UserError
from common.papers.config_fields import kinds
from common.papers.ranges import LARGEST, LARGEST_SEED, ORDERED, RANGES, Range, check, check_seed, range_of
from common.papers.settings import resolve_loaded
from common.runs import command_line


@lru_cache
def loaded() -> dict[str, papers.Paper]:
    return papers.load_papers()


@lru_cache
def scripts() -> dict[tuple[str, str], papers.Task]:
    """(paper, script) -> a task of it."""
    return {(p.name, task.script): task for p in loaded().values() for task in p.tasks.values()}


def numeric(paper: str, script: str) -> dict[str, type]:
    found = {}
    for name, field in loaded()[paper].fields(script).items():
        types = [kind for kind in kinds(field.type)[0] if kind in (int, float)]
        if types:
            found[name] = types[0]
    return found


def test_every_numeric_field_of_every_script_has_a_range_and_the_table_has_no_other():
    names = set()
    for paper, script in scripts():
        for name in numeric(paper, script):
            assert name in RANGES, (
                f"{paper}/{script}.py: Config.{name} has no range; add it to common/papers/ranges.py"
            )
            names |= {name, f"{paper}.{name}"}
    assert len(scripts()) >= 10
    assert RANGES.keys() <= names
    assert {name for pair in ORDERED for name in pair[:2]} <= names


def test_whatever_the_papers_ask_for_is_allowed():
    """Each budget of each task, of games with the same settings only one."""
    tried = set()
    for paper in loaded().values():
        for variant in paper.variants.values():
            for task in {**paper.tasks, **variant.tasks}.values():
                key = (paper.name, variant.name, task.kind, str(task.settings), str(task.budgets))
                if key not in tried:
                    tried.add(key)
                    for budget in paper.budgets:
                        resolve_loaded(paper, variant, task, budget)
    assert len(tried) > 50


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_value_out_of_its_range_is_refused_in_one_sentence(data):
    paper, script = data.draw(st.sampled_from(sorted(scripts())))
    task = scripts()[paper, script]
    name, kind = data.draw(st.sampled_from(sorted(numeric(paper, script).items(), key=lambda x: x[0])))
    allowed = range_of(paper, name)
    if kind is int:
        bad = st.integers(max_value=math.ceil(allowed.least) - 1) | st.integers(
            min_value=math.floor(allowed.most) + 1
        )
    else:
        bad = st.floats(max_value=allowed.least, exclude_max=not allowed.above) | st.floats(
            min_value=allowed.most, exclude_min=not allowed.below
        )
    value = data.draw(bad)
    with pytest.raises(UserError) as refused:
        resolve_loaded(loaded()[paper], loaded()[paper].variants[""], task, "paper", {name: value})
    message = str(refused.value)
    most = f", at most {LARGEST:,}" if value > LARGEST else ""
    assert message == f"settings.{name}: {kind(value)} is not allowed; {allowed.in_words()}{most}"


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_value_in_its_range_is_not(data):
    paper, script = data.draw(st.sampled_from(sorted(scripts())))
    given_settings = {}
    for name, kind in numeric(paper, script).items():
        allowed = range_of(paper, name)
        if kind is int:
            given_settings[name] = data.draw(st.integers(math.ceil(allowed.least), math.floor(allowed.most)))
        else:
            given_settings[name] = data.draw(
                st.floats(allowed.least, allowed.most, exclude_min=allowed.above, exclude_max=allowed.below)
            )
    for low, high, _ in ORDERED:
        if low in given_settings and high in given_settings:
            del given_settings[low]
    if "n_step" in given_settings:
        given_settings["n_step"] = 1
    check(paper, given_settings, str)


def test_limits_themselves():
    assert Range(1).holds(1)
    assert not Range(1).holds(0)
    assert Range(0, 1).holds(0)
    assert Range(0, 1).holds(1)
    assert not Range(0, 1).holds(1.0000001)
    assert not Range(0, 1, below=True).holds(1)
    assert not Range(0, above=True).holds(0)
    assert Range(0, above=True).holds(1e-300)
    assert not Range().holds(math.inf)
    assert not Range(0).holds(math.inf)
    words = {
        r.in_words() for r in (Range(1), Range(0, above=True), Range(0, 1), Range(0, 1, below=True), Range())
    }
    assert words == {"1 or more", "more than 0", "from 0 to 1", "0 or more, less than 1", "a finite number"}


NONSENSE = [
    ("dqn", "pong", "--training-steps=-5", "training_steps: -5 is not allowed; 1 or more"),
    ("dqn", "pong", "--training-steps=0", "training_steps: 0 is not allowed; 1 or more"),
    ("double_dqn", "pong", "--batch-size=0", "batch_size: 0 is not allowed; 1 or more"),
    ("dueling_dqn", "pong", "--discount=1.5", "discount: 1.5 is not allowed; from 0 to 1"),
    ("a3c", "pong", "--frame-skip=0", "frame_skip: 0 is not allowed; from 1 to 255"),
    ("a2c", "pong", "--learning-rate=inf", "learning_rate: inf is not allowed; more than 0"),
    ("ppo", "pong", "--num-envs=0", "num_envs: 0 is not allowed; from 1 to 4,096"),
    ("ppo", "pong", "--max-frames=3", "frame_skip: 4 is not allowed; at most max_frames, which is 3"),
    (
        "rainbow",
        "pong",
        "--value-min=10",
        "value_min: 10.0 is not allowed; less than value_max, which is 10.0",
    ),
    ("rainbow", "pong", "--replay-start=2", "replay_start: 2 is not allowed; 3 or more, with n_step 3"),
    ("rainbow", "pong", "--reward-clip=0", "reward_clip: 0.0 is not allowed; more than 0"),
    (
        "dqn_2013",
        "pong",
        "--seed=4294967296",
        "seed 4294967296 is not allowed; a whole number from 1 to 4,294,967,295",
    ),
    ("prioritized_dqn", "pong", "--seed=-1", "seed -1 is not allowed"),
    ("alphago_zero", "go_3x3", "--simulations=0", "simulations 0: at least 1 is needed"),
    ("dqn", "pong", "--threads=-1", "--threads -1: 0 .*or more"),
]


@pytest.mark.parametrize(("paper", "task", "flag", "message"), NONSENSE)
def test_nonsense_on_the_command_line_is_refused(paper, task, flag, message):
    script = importlib.import_module(f"replications.{paper}.train")
    words = ["--task", task, "--device", "cpu", "--budget", "paper", flag]
    with pytest.raises(UserError, match=message):
        command_line.parse(paper, script.Config, words)


def test_no_clipping_of_rewards_is_ppos_alone():
    resolved = papers.resolve("ppo", None, "pong", "paper", {"reward_clip": 0.0})
    assert resolved.settings["reward_clip"] == 0


def test_seeds():
    for seed in (1, LARGEST_SEED):
        check_seed(seed)
    for seed in (-1, 0, LARGEST_SEED + 1):
        with pytest.raises(UserError, match=f"seed {seed} is not allowed; a whole number from 1"):
            check_seed(seed)
