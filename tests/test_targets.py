"""`./run targets`: what can be asked for."""

from __future__ import annotations

import shutil

import pytest

from common import targets
from common.errors import UserError
from common.workflow import Flow
from tests.toy import write_toy


@pytest.fixture(scope="module")
def flow():
    return Flow({})


def test_the_summary_names_every_paper_and_variant_and_is_short(flow):
    lines = targets.summary(flow)
    assert [line.split("_TASK")[0].removeprefix("reports/") for line in lines[:-1]] == list(flow.agents)
    assert f"{len(flow.targets)} pages of one task" in lines[-1]
    assert max(map(len, lines)) < 200


def test_a_pattern_lists_what_fits(flow):
    pages = [line.split()[0] for line in targets.matching(flow, "dqn_pong")]
    assert "reports/dqn_pong.html" in pages
    assert "reports/double_dqn_pong.html" in pages
    assert not [page for page in pages if "breakout" in page]
    assert "reports/pong.html  " in "\n".join(targets.matching(flow, "reports/pong"))
    assert "reports/dqn_pong.html" in "\n".join(targets.matching(flow, "DQN (2015), Pong"))
    with pytest.raises(UserError, match=r"no page fits 'dqn_pnog' \(did you mean 'dqn_pong'"):
        targets.matching(flow, "dqn_pnog")


def test_pages_of_variants_are_told_apart(flow):
    (fast,) = [
        line for line in targets.matching(flow, "dqn-fast_pong") if line.startswith("reports/dqn-fast_")
    ]
    assert fast.endswith("DQN (2015), Pong, " + flow.papers["dqn"].variants["fast"].title)
    (plain,) = [line for line in targets.matching(flow, "dqn_pong") if line.startswith("reports/dqn_pong")]
    assert plain.endswith("DQN (2015), Pong")


def test_a_broken_paper_is_named(tmp_path, monkeypatch, capsys):
    root = write_toy(tmp_path)
    shutil.copytree(root / "toy", root / "other")
    paper = root / "toy" / "paper.yaml"
    (root / "other" / "paper.yaml").write_text(paper.read_text().replace("paper: toy\n", "paper: other\n", 1))
    paper.write_text(paper.read_text().replace("frames_per_agent_step: 4", "frames_per_agent_step: four"))
    monkeypatch.setattr(targets, "Flow", lambda config: Flow({"targets": ["other_pong"]}, root))
    targets.main(["other_pong"])
    printed = capsys.readouterr()
    assert printed.out.startswith("reports/other_pong.html")
    assert "toy/paper.yaml: frames_per_agent_step: 'four' is not" in printed.err
    assert "there are no pages of toy" in printed.err
    with pytest.raises(UserError, match=r"toy/paper\.yaml: frames_per_agent_step: 'four'"):
        targets.main(["toy_pong"])


def test_names_for_completion(flow, capsys):
    targets.main(["--names"])
    printed = capsys.readouterr().out.split()
    assert len(printed) == len(set(printed)) == len(flow.targets) + len(flow.summaries.names) + 1
    assert {"reports/dqn_pong.html", "reports/index.html"} <= set(printed)
