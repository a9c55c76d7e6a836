"""A task with claims through the whole workflow: run, judged, rendered, recorded, and rendered from what is recorded."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.test_smoke import snakemake
from tests.training import ROOT

PAGE = "reports/double_dqn_overestimation.html"


@pytest.mark.slow
def test_from_nothing_to_a_recorded_page(tmp_path):
    root, log = tmp_path / "repo", tmp_path / "log"
    skip = shutil.ignore_patterns(
        ".venv", ".git", "results", "logs", ".snakemake", "recorded", "__pycache__", "*.html"
    )
    shutil.copytree(ROOT, root, ignore=skip)
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for step in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "A clean commit")):
        subprocess.run(["git", *step], cwd=root, check=True)  # only runs of a commit are recorded
    order = (PAGE, "--verbose", "--config", "budget=smoke", "seeds=2")
    assert snakemake(root, *order, log=log).wait(240) == 0, log.read_text()
    printed = log.read_text()
    assert re.search(r"double_dqn_overestimation: size smoke \(2 seeds, on \w+\)", printed)
    assert len(re.findall(r"rule claims:", printed)) == 2
    assert "rule train:" not in printed
    assert "rule evaluate:" not in printed
    runs = sorted((root / "results/double_dqn/overestimation/smoke").iterdir())
    assert [run.name for run in runs] == ["seed1", "seed2"]
    names = {"run.json", "measures.json", "points.csv"}
    assert all(names <= {path.name for path in run.iterdir()} for run in runs)
    head = re.search(r'data-verdict="(\w+)" data-source="own" data-size="smoke"', (root / PAGE).read_text())
    assert head[1] in ("reached", "too_short")  # 2 seeds of smoke size say nothing about the paper

    again = tmp_path / "again"
    assert snakemake(root, *order, log=again).wait(120) == 0
    assert "Nothing to be done" in again.read_text()

    command = [sys.executable, "-m", "common.runs.record", "--allow-smoke", *map(str, runs)]
    subprocess.run(command, cwd=root, check=True, timeout=120)
    shutil.rmtree(root / "results")
    recorded = tmp_path / "recorded"
    assert snakemake(root, PAGE, "--verbose", "--config", "source=recorded", log=recorded).wait(120) == 0, (
        recorded.read_text()
    )
    text = (root / PAGE).read_text()
    assert 'data-source="recorded" data-size="smoke"' in text
    assert "measures came out exactly as recorded" in text
    assert "rule claims:" not in recorded.read_text()
