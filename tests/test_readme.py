"""What the README says of results is what the recorded runs hold, and the commands it names exist."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from common import papers
from common.evaluation.ranges import score_range
from common.evaluation.statistics import estimate_in_words, seed_interval
from common.workflow import Flow
from reports import readme
from reports.target import load_target

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z0-9_-]+)` \| ([^\n]*) \|$", README, re.MULTILINE))
SEEDS = {
    1: "one seed",
    2: "two seeds",
    3: "three seeds",
    5: "five seeds",
    6: "6 seeds",
    7: "7 seeds",
    8: "8 seeds",
    9: "9 seeds",
    10: "ten seeds",
    20: "twenty seeds",
}


def recorded() -> dict[str, Path]:
    """target -> the folder of its recorded seeds, of its longest size."""
    found, length = {}, {}
    for folder in sorted((ROOT / "replications").glob("*/recorded/*/*/*")):
        paper, variant, task = folder.parts[-5], folder.parts[-3], folder.parts[-2]
        name = f"{paper}{'' if variant == 'base' else f'-{variant}'}_{task}"
        run = json.loads(next(folder.glob("seed*/run.json")).read_text())
        frames = run.get("progress", {}).get("frames", 0)
        if frames >= length.get(name, 0):
            found[name], length[name] = folder, frames
    return found


def test_the_table_is_the_one_that_is_written_from_the_recorded_runs():
    assert readme.block() in README, "run python -m reports.readme"


def test_every_recorded_run_of_a_paper_itself_has_its_row():
    assert {name for name in recorded() if "-" not in name} <= set(ROWS)


@pytest.mark.parametrize("name", sorted(set(ROWS) & set(recorded())))
def test_a_row_begins_with_the_mean_of_the_recorded_scores(name):
    folder, words = recorded()[name], ROWS[name]
    assert SEEDS[len(list(folder.glob("seed*")))] in words
    evaluations = [json.loads(file.read_text()) for file in folder.glob("seed*/evaluation.json")]
    if evaluations:
        scores = [evaluation["score"] for evaluation in evaluations]
        said = seed_interval(scores, bounds=score_range(load_target(name).task))
        assert words.startswith(estimate_in_words(said) + ", ")  # as on its page and in the index
    else:
        assert "claims hold" in words


def speed_rows() -> list[str]:
    """The README's table of speed, from the measurements beside the benchmarks."""
    found = json.loads((ROOT / "benchmarks" / "results.json").read_text())

    def m(name: str) -> float:
        return found[name]["median"]

    def times(name: str) -> str:
        low, high = found[name]["spread"]
        return f"{m(name):.2f} times Stable-Baselines3's ({low:.2f} to {high:.2f})"

    go = json.loads((ROOT / "benchmarks" / "self_play.json").read_text())
    held = m("replay_gb_per_million") - m("replay_slack_gb_per_million")
    return [
        f"| DQN | {m('dqn_steps_per_second'):.0f} agent steps/s | {times('dqn_over_sb3')} |",
        f"| PPO, as in the released code (`ppo2`) | {m('ppo2_steps_per_second'):.0f} agent steps/s | {times('ppo_over_sb3')} |",
        f"| PPO and A3C, the papers' small network | {m('ppo_steps_per_second'):.0f} and {m('a3c_steps_per_second'):.0f} agent steps/s | |",
        f"| PPO on HalfCheetah and Hopper, one thread | {m('ppo_half_cheetah_steps_per_second'):.0f} and "
        f"{m('ppo_hopper_steps_per_second'):.0f} agent steps/s | {times('ppo_half_cheetah_over_sb3')}, {times('ppo_hopper_over_sb3')} |",
        f"| DDPG on HalfCheetah, one thread | {m('ddpg_steps_per_second'):.0f} agent steps/s | {times('ddpg_over_sb3')} |",
        f"| DQN's variant `fast` | {m('dqn_fast_steps_per_second'):.0f} agent steps/s | {m('dqn_fast_over_dqn'):.2f} times DQN's as in the paper |",
        f"| AlphaGo Zero against itself, Go on 5x5 | {go['games_per_second']:.1f} games/s of {go['moves_per_game']:.0f} moves | |",
        f"| our environments | | {m('env_over_bare'):.2f} of the bare emulator's rate |",
        f"| a million transitions | {held:.2f} GB and {m('replay_slack_gb_per_million'):.2f} GB of slack | "
        f"Stable-Baselines3: {m('sb3_replay_gb_per_million'):.1f} GB |",
        f"| a batch of 32 out of them | {m('replay_sample_ms'):.2f} ms | |",
    ]


def test_speed_is_the_measured_one():
    rows = speed_rows()
    start = README.index(rows[0])
    assert README[start:].splitlines()[: len(rows)] == rows


def test_targets_and_modules_it_names_exist():
    targets = {*papers.targets(), *Flow({}).summaries.names}
    named = set(re.findall(r"reports/([a-z0-9_-]+)\.html", README))
    assert named <= {*targets, "index"}
    assert "dqn-no_replay_breakout" in named
    for module in re.findall(r"python -m ([a-z_.0-9]+)", README):
        assert importlib.util.find_spec(module)
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_ladder_names_what_exists_and_every_paper():
    ladder = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
    named = set(re.findall(r"reports/([a-z0-9_-]+)\.html", ladder))
    assert named <= set(papers.targets())
    assert {papers.parse_target(name).paper for name in named} == set(papers.discover())
    for path in re.findall(r"\]\(([^)#:]+)\)", ladder):
        assert (ROOT / "docs" / path).exists(), path
    for old, new in re.findall(r"`([a-z0-9_]+)` to `([a-z0-9_]+)`", ladder):
        assert {old, new} <= set(papers.discover())
