"""Runs with settings that a user gave: a folder, a name and a page of their own, and never a verdict about the paper."""

from __future__ import annotations

import dataclasses
import json

import pytest
import tyro

from common import papers
from common.errors import UserError
from common.papers.config_fields import Field
from common.runs import command_line
from common.workflow import Flow
from tests.test_workflow import lines, repo, servers, snakemake, toy  # noqa: F401 (fixtures)


@dataclasses.dataclass(frozen=True)
class Toy:
    """Fields of all types that a script's Config has."""

    steps: int = 10
    rate: float = 0.01
    replay: bool = True
    network: str = "conv"
    clip: float | None = 1.0


def test_a_size_is_named_by_its_settings_alone():
    size = papers.overridden_size("hour", {"b": 1, "a": 0.5})
    assert size == papers.overridden_size("hour", {"a": 0.5, "b": 1})
    assert papers.SIZE.fullmatch(size)
    assert (papers.budget_of(size), papers.is_overridden(size)) == ("hour", True)
    assert size != papers.overridden_size("hour", {"a": 0.5, "b": 2})
    assert papers.overridden_size("hour", {}) == papers.budget_of("hour") == "hour"


def test_flags_say_what_the_text_says():
    text = {"steps": "2e1", "rate": "1e-9", "replay": "false", "network": "mlp", "clip": "none"}
    fields = {f.name: Field(f.type, f.default) for f in dataclasses.fields(Toy)}
    values = papers.in_type(text, fields, "toy")
    assert values == {"steps": 20, "rate": 1e-9, "replay": False, "network": "mlp", "clip": None}
    assert dataclasses.asdict(tyro.cli(Toy, args=papers.as_flags(values))) == values
    assert papers.settings_in(papers.as_text({"rate": 1e-9, "steps": 20})) == {"rate": "1e-09", "steps": "20"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("learning_rate", "'learning_rate' is no setting; write NAME=VALUE"),
        ("lerning_rate=1", "toy/train.py has no setting 'lerning_rate' (did you mean 'learning_rate'"),
        ("learning_rate=fast", "learning_rate: 'fast' is not of type float"),
        ("capacity=1.5", "capacity: '1.5' is not of type int"),
        ("network=mpl", "network: 'mpl' is not allowed (did you mean 'mlp'"),
    ],
)
def test_mistakes_in_settings(toy, settings, message):  # noqa: F811
    flow = Flow({"targets": ["toy_pong"], "budget": "smoke", "settings": settings}, toy)
    with pytest.raises(UserError) as caught:
        flow.check([flow.target("toy_pong")])
    assert message in str(caught.value)


def test_the_command_line_and_the_workflow_name_a_run_alike():
    from replications.ppo.train import Config

    order = ["--task", "cartpole", "--budget", "hour", "--device", "cpu"]
    _, plain = command_line.parse("ppo", Config, order)
    _, tuned = command_line.parse("ppo", Config, [*order, "--learning-rate", "1e-9"])
    flow = Flow({"targets": ["ppo_cartpole"], "budget": "hour", "settings": {"learning_rate": "1e-9"}})
    assert (plain.budget, plain.asked, tuned.asked) == ("hour", {}, {"learning_rate": 1e-9})
    assert tuned.budget == flow.size(flow.target("ppo_cartpole")) != "hour"
    assert tuned.settings["learning_rate"] == 1e-9
    assert flow.seeds(flow.target("ppo_cartpole"), papers.overridden_size("smoke", tuned.asked)) == 1
    _, same = command_line.parse(
        "ppo", Config, [*order, f"--learning-rate={plain.settings['learning_rate']}"]
    )
    assert (same.budget, same.asked) == ("hour", {})  # the value it has anyway
    with pytest.raises(UserError, match="give --budget hour and the settings"):
        command_line.parse("ppo", Config, [*order[:3], tuned.budget, *order[4:]])


def test_a_machine_with_few_cores_is_no_override(monkeypatch):
    from replications.a3c import train

    monkeypatch.setattr(train, "fit_to_machine", lambda config: {"workers": 2})
    order = ["--task", "cartpole", "--budget", "smoke", "--device", "cpu"]
    _, fitted = command_line.parse("a3c", train.Config, order)
    assert (fitted.budget, fitted.asked, fitted.settings["workers"]) == ("smoke", {}, 2)
    run = {"settings": fitted.settings, "settings_key": papers.settings_key(fitted, 1)}
    asked = papers.resolve("a3c", None, "cartpole", "smoke")
    assert papers.what_differs(run, asked, 1) == ""
    _, tuned = command_line.parse("a3c", train.Config, [*order, "--learning-rate", "0.5"])
    assert (tuned.asked, tuned.settings["workers"]) == ({"learning_rate": 0.5}, 2)


def test_a_setting_that_came_later_leaves_earlier_runs_as_they_are():
    """Such a run did what the setting's default does."""
    asked = papers.resolve("dqn", None, "pong", "paper")
    earlier = {name: value for name, value in asked.settings.items() if name != "bfloat16"}
    run = {"settings": earlier, "settings_key": "0" * 12}
    assert papers.what_differs(run, asked, 1) == ""
    assert papers.settings_of(run, asked.paper, asked.task) == asked.settings
    fast = papers.resolve("dqn", "fast", "pong", "paper")
    earlier = {name: value for name, value in fast.settings.items() if name != "bfloat16"}
    assert "bfloat16=False (asked: True)" in papers.what_differs({"settings": earlier}, fast, 1)


def test_own_settings_through_the_workflow(repo, snakemake):  # noqa: F811
    order = ("reports/toy_pong.html", "--config", "settings=learning_rate=0.5,capacity=7")
    size = papers.overridden_size("smoke", {"learning_rate": 0.5, "capacity": 7})
    output = snakemake(repo, *order)
    assert f"toy_pong: size {size}" in output
    assert [line.split()[:2] for line in lines(repo, "trained")] == [["pong", "smoke"]]
    assert "--capacity=7 --learning-rate=0.5" in lines(repo, "trained")[0]
    assert (repo / "results/toy/pong" / size / "seed1/evaluation.json").exists()
    assert not (repo / "results/toy/pong/smoke").exists()  # nothing else is trained for it
    pages = [line.split()[0] for line in lines(repo, "rendered")]
    assert pages == [f"toy_pong-{size}", "toy_pong"]
    assert "Nothing to be done" in snakemake(repo, *order)
    own = f"reports/toy_pong-{size}.html"
    assert "Nothing to be done" in snakemake(repo, own, *order[1:])
    output = snakemake(repo, own, code=1)
    assert "its settings cannot be told from that name" in output
    assert "Traceback" not in output
    # the paper's own runs are others
    snakemake(repo, order[0])
    assert len(lines(repo, "trained")) == 2
    assert "Nothing to be done" in snakemake(repo, order[0])


def test_a_run_that_is_not_what_is_asked_for_is_trained_again(repo, snakemake):  # noqa: F811
    """Made without the workflow, so that Snakemake remembers nothing of it."""
    snakemake(repo)
    run = repo / "results/toy/pong/smoke/seed1/run.json"
    is_now = json.loads(run.read_text())
    forget(repo)
    assert "trained again" not in snakemake(repo)
    tuned = is_now | {"settings": is_now["settings"] | {"learning_rate": 1e-9}}
    run.write_text(json.dumps(tuned))
    forget(repo)
    output = snakemake(repo, "-n")
    assert "was trained with learning_rate=1e-09 (asked: 0.1): it is put aside and trained again" in output
    assert len(lines(repo, "trained")) == 1  # a dry run
    snakemake(repo)
    assert len(lines(repo, "trained")) == 2
    assert len(lines(repo, "rendered")) == 2
    assert json.loads(run.read_text())["settings"] == is_now["settings"]
    assert "Nothing to be done" in snakemake(repo)


def forget(folder) -> None:
    for record in (folder / ".snakemake" / "metadata").glob("*"):
        record.unlink()
