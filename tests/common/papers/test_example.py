"""The example of docs/paper_yaml.md is a paper that loads, and resolves as the page says; that of docs/train_py.md trains."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.papers import Paper, check_defaults, load_paper, resolve, targets_of

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "paper_yaml.md").read_text(encoding="utf-8")
ROW = r"^\| (\w*) ?\| (\w+) \| (\w+) \| ([\d.]*) ?\| ([\d.]+) \| ([a-z ]+) \|$"


@pytest.fixture
def example(tmp_path: Path) -> Paper:
    folder = tmp_path / "replications" / "example"
    folder.mkdir(parents=True)
    unpack(PAGE, folder, python="train.py", csv="published.csv", yaml="paper.yaml")
    return load_paper("example", folder.parent)


def unpack(page: str, folder: Path, **names: str) -> None:
    """Writes a page's only block of each kind into a file of that name."""
    for kind, name in names.items():
        (block,) = re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        (folder / name).write_text(block)


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


@pytest.mark.slow
def test_the_small_script_trains_and_goes_on_after_a_stop(tmp_path):
    folder = tmp_path / "replications" / "tiny"
    folder.mkdir(parents=True)
    unpack(
        (ROOT / "docs" / "train_py.md").read_text(encoding="utf-8"),
        folder,
        python="train.py",
        yaml="paper.yaml",
    )
    shutil.copytree(ROOT / "common", tmp_path / "common", ignore=shutil.ignore_patterns("__pycache__"))
    paper = load_paper("tiny", folder.parent)
    assert (check_defaults(paper), resolve(paper, None, "cartpole", "paper").deviations) == ([], ())
    # stopped by a signal at the first episode's end, then the same command again; and never stopped
    stop = "import os, signal\n" + (folder / "train.py").read_text().replace(
        "run.log_episodes(progress, step)",
        "run.log_episodes(progress, step)\n            if progress.episodes == 1: os.kill(os.getpid(), signal.SIGTERM)",
    ).replace("from __future__ import annotations\n", "")
    (folder / "stops.py").write_text(stop)
    results = []
    for name, scripts in (("stopped", ("stops", "train")), ("whole", ("train",))):
        for script in scripts:
            subprocess.run(
                [sys.executable, "-m", f"replications.tiny.{script}", "--task", "cartpole", "--budget", "smoke",
                 "--device", "cpu", "--threads", "1", "--results", str(tmp_path / name)],
                cwd=tmp_path, env=os.environ | {"WANDB_MODE": "disabled", "PYTHONPATH": str(tmp_path)}, capture_output=True, check=script == "train",
            )  # fmt: skip
        results.append(tmp_path / name / "tiny" / "cartpole" / "smoke" / "seed1")
    one, other = results
    assert json.loads((one / "run.json").read_text())["cost"]["attempts"] == 2
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
