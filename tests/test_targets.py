"""`./run targets`: what can be asked for."""

from __future__ import annotations

import pytest

from common import targets
from common.errors import UserError
from common.workflow import Flow


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


def test_names_for_completion(flow, capsys):
    targets.main(["--names"])
    printed = capsys.readouterr().out.split()
    assert len(printed) == len(set(printed)) == len(flow.targets) + len(flow.summaries.names) + 1
    assert {"reports/dqn_pong.html", "reports/index.html"} <= set(printed)
