"""The whole workflow with the real script at `smoke`: killed half-way, resumed, and asked what it really did."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import ROOT, wait_for


def snakemake(root: Path, *arguments: str, log: Path) -> subprocess.Popen:
    environment = os.environ | {"WANDB_MODE": "offline"}
    environment.pop("PYTHONPATH", None)
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=root, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


@pytest.mark.slow
def test_smoke_killed_half_way_and_resumed(tmp_path):
    root, log = tmp_path / "repo", tmp_path / "log"
    skip = shutil.ignore_patterns(
        ".venv", ".git", "results", "logs", ".snakemake", "recorded", "__pycache__", "*.html"
    )
    shutil.copytree(ROOT, root, ignore=skip)
    order = ("reports/dqn_pong.html", "--config", "budget=smoke")
    folder = root / "results" / "dqn" / "pong" / "smoke" / "seed1"

    process = snakemake(root, *order, log=log)
    assert wait_for(lambda: list((folder / "checkpoint").glob("step-*[5-9]??")), 120), log.read_text()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "run.json").exists()
    assert snakemake(root, *order, log=log).wait(240) == 0, log.read_text()

    assert re.search(r"resumed at agent step \d+", log.read_text())
    run = json.loads((folder / "run.json").read_text())
    assert run["cost"]["attempts"] == 2
    assert run["progress"] == {
        "agent_steps": 2400,
        "frames": 9600,
        "updates": 500,
        "episodes": run["progress"]["episodes"],
    }
    assert run["progress"]["episodes"] >= 2
    counts = run["result"]["counts"]
    assert counts["target_copies"] == 4  # at 500, 1000, 1500, 2000
    assert counts["evaluations"] == 2
    assert counts["ring_wraps"] == 1  # 1,500 slots
    curve = list(csv.DictReader((folder / "curve.csv").open()))
    assert [float(row["epsilon"]) for row in curve] == pytest.approx([1 - 0.9 * 0.8, 0.1])
    assert float(curve[0]["mean_max_q"]) != float(curve[1]["mean_max_q"])
    assert not (folder / "checkpoint" / "frames.bin").exists()

    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert len(evaluation["episodes"]) == 2
    assert all(-21 <= e["score"] <= 21 for e in evaluation["episodes"])
    page = (root / "reports" / "dqn_pong.html").read_text()
    assert 'data-verdict="too_short"' in page
    assert "18.9" in page
    assert not re.search(r"""(src|href)=["']?https?://(?!doi\.org|arxiv\.org)""", page)
    again = snakemake(root, *order, log=tmp_path / "again")
    assert again.wait(120) == 0
    assert "Nothing to be done" in (tmp_path / "again").read_text()
