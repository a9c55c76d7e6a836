"""The page that sets a paper and its variants side by side on a task with claims, from the recorded runs."""

from __future__ import annotations

import json
import statistics as st

import pytest

from common import papers
from common.errors import UserError
from reports.compared import tasks_compared
from reports.index import all_targets
from reports.task_page import render_task
from reports.words import number
from tests.reports.pages import Reader

RECORDED = papers.REPLICATIONS / "alphago_zero/recorded"


def measures_of(agent: str) -> list[dict]:
    return [
        json.loads(p.read_text())
        for p in sorted((RECORDED / agent / "go_5x5/paper").glob("seed*/measures.json"))
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[Reader, str]:
    folder = tmp_path_factory.mktemp("compared")
    text = render_task("go_5x5", folder / "no results", folder / "go_5x5.html").read_text()
    return Reader(text), text


def test_every_cell_is_the_mean_over_the_recorded_seeds(page):
    reader, text = page
    names = ["base", "no_noise", "no_symmetries", "gate", "separate", "plain"]  # in the order of paper.yaml
    agents = [name for name in names if measures_of(name)]
    assert len(agents) >= 2
    head, *rows = reader.table("numbers measures")
    assert len(head) == 1 + len(agents)
    assert "3 seeds; paper, recorded" in head[1]
    cells = {row[0]: row[1:] for row in rows}
    for measure, statement in (
        ("black_gnu_go", "As Black against GNU Go, level 10: share of points"),
        ("empty_board", "The last network's value of the empty board, for Black"),
        (
            "elo_of_search",
            "The last network without search is far below the same with search: Elo between them",
        ),
    ):
        for agent, cell in zip(agents, cells[statement], strict=True):
            values = [found[measure] for found in measures_of(agent)]
            assert cell.startswith(number(st.mean(values))), (agent, measure)
            if min(values) < max(values):
                assert cell.endswith(f"{number(min(values))} to {number(max(values))}")
    for name in set(names) - set(agents) - {"base"}:
        assert f"./run snakemake reports/alphago_zero-{name}_go_5x5.html" in text


def test_every_shared_curve_has_a_line_for_each_agent(page):
    reader, text = page
    agents = sum(bool(measures_of(folder.name)) for folder in RECORDED.iterdir())
    first = text.split("<figure")[1]  # Black's share in self-play, which every run has
    assert first.count('<path class="curve') == agents
    assert first.count("<li class=") == agents
    assert {"alphago_zero_go_5x5.html", "index.html"} <= set(reader.links)


def test_only_tasks_with_claims_of_several_agents_have_it(tmp_path):
    known = tasks_compared(all_targets(papers.load_papers()))
    assert known["go_5x5"][0].name == "alphago_zero_go_5x5"
    assert "go_3x3" not in known
    assert "pong" not in known
    with pytest.raises(UserError, match="unknown task 'go_5x6' \\(did you mean 'go_5x5'"):
        render_task("go_5x6", tmp_path)
