"""The example of docs/paper_yaml.md is a paper that loads, and resolves as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.papers import Paper, check_defaults, load_paper, resolve, targets_of

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "paper_yaml.md").read_text(encoding="utf-8")
ROW = r"^\| (\w*) ?\| (\w+) \| (\w+) \| ([\d.]*) ?\| ([\d.]+) \| ([a-z ]+) \|$"


@pytest.fixture
def example(tmp_path: Path) -> Paper:
    folder = tmp_path / "replications" / "example"
    folder.mkdir(parents=True)
    for kind, name in (("python", "train.py"), ("csv", "published.csv"), ("yaml", "paper.yaml")):
        (block,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        (folder / name).write_text(block)
    return load_paper("example", folder.parent)


def test_the_example_loads_and_its_pages_are_those_it_names(example):
    assert check_defaults(example) == []
    pages = targets_of({"example": example})
    named = re.findall(r"`reports/(example[\w-]*)\.html`", PAGE)
    assert len(named) == 3
    assert set(named) <= set(pages)
    assert "example-double_hopper" not in pages


def test_settings_resolve_in_the_order_of_the_page(example):
    rows = re.findall(ROW, PAGE, re.MULTILINE)
    assert [row[-1] for row in rows] == [
        "paper",
        "paper",
        "task",
        "variant",
        "budget",
        "paper",
        "command line",
    ]
    for variant, task, budget, given, value, source in rows:
        overrides = {"learning_rate": float(given)} if given else {}
        found = resolve(example, variant or None, task, budget, overrides)
        assert (found.settings["learning_rate"], found.sources["learning_rate"]) == (float(value), source)


def test_each_task_is_compared_with_the_constants_of_its_kind(example):
    hopper, pong = (resolve(example, None, task, "paper") for task in ("hopper", "pong"))
    assert (hopper.settings["training_steps"], pong.settings["training_steps"]) == (250_000, 1_000_000)
    assert [d.field for d in hopper.deviations] == ["capacity"]
    assert [d.what for d in pong.deviations] == ["Emulator and ROMs are today's", "memory"]
    assert (hopper.frames, hopper.paper_fraction, pong.paper_fraction) == (250_000, 1, 1)
    uniform = example.variants["uniform"].tasks
    assert [(task.name, task.published) for task in uniform.values()] == [
        ("pong", None), ("breakout", None), ("seaquest", None), ("hopper", None)
    ]  # fmt: skip
    assert example.tasks["seaquest"].published.value == 5286
