"""What the workflow asks of the pages about many runs: which there are, what they train, and what targets mean."""

from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.workflow import Flow


@pytest.fixture(scope="module")
def flow():
    return Flow({})


def asked(**config) -> list[str]:
    return Flow(config).config["targets"]


def test_no_two_pages_share_a_name(flow):
    names = flow.summaries.names
    assert {"dqn", "ppo-no_clip", "pong", "hopper", "ppo_table_1"} <= names
    assert not names & set(flow.targets)
    modules = {name: flow.summaries.page(SimpleNamespace(summary=name)) for name in names}
    assert modules["dqn-fast"] == "reports.paper_page"
    assert modules["pong"] == "reports.task_page"
    assert modules["go_5x5"] == "reports.task_page"
    assert modules["ppo_table_1"] == "reports.table_page"


def test_pages_of_papers_and_tasks_ask_for_nothing_and_are_known(flow):
    assert flow.requested(["reports/ppo.html"]) == []
    assert flow.requested(["reports/pong.html", "reports/dqn_pong.html"]) == [flow.target("dqn_pong")]
    with pytest.raises(UserError, match="unknown target 'ponng'"):
        flow.requested(["reports/ponng.html"])


def test_a_table_asks_for_all_of_its_runs_at_the_papers_length(flow):
    files = flow.summaries.runs(SimpleNamespace(summary="ppo_table_1"))
    runs = {path.rsplit("/", 1)[0] for path in files}
    assert len(runs) == 11 * 7 * 3
    assert "results/ppo-no_clip/half_cheetah/paper/seed3" in runs
    assert "results/ppo/walker2d/paper/seed1" in runs
    smoke = Flow({"budget": "smoke", "seeds": 1}).summaries.runs(SimpleNamespace(summary="ppo_table_1"))
    assert {path.split("/")[3] for path in smoke} == {"smoke"}
    assert len({path.rsplit("/", 1)[0] for path in smoke}) == 77
    for source in ("results", "recorded"):
        assert Flow({"source": source}).summaries.runs(SimpleNamespace(summary="ppo_table_1")) == []


def test_from_results_a_page_needs_no_run_and_changes_with_them(tmp_path):
    page = SimpleNamespace(target="dqn_pong")
    flow = Flow({"source": "results", "results": str(tmp_path)})
    assert flow.page_runs(page) == []
    before = flow.page_seen(page)
    folder = tmp_path / "dqn/pong/hour/seed1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    assert flow.page_seen(page) != before
    other = flow.summaries.seen("hopper")
    (folder / "evaluation.json").write_text("{}")
    assert flow.summaries.seen("hopper") == other
    assert flow.summaries.seen("pong") != before


def test_patterns_and_suites():
    ppo = asked(targets="ppo_*")
    assert len(ppo) == 49 + 7 + 1
    assert all(name.startswith("ppo_") for name in ppo)
    assert {name[:4] for name in asked(targets="dqn_*")} == {"dqn_"}
    assert not any(name.startswith("dqn_2013") for name in asked(targets="dqn_*"))
    assert (
        len(asked(targets="dqn_2013_*")) == len([n for n in asked(targets="dqn_2013*") if "-" not in n]) > 6
    )
    assert asked(targets="dqn_pong", suite="atari49") == asked(targets=["dqn_breakout"], suite="atari49")
    assert len(asked(targets="dqn_pong", suite="atari49")) == 49
    assert asked(targets="ppo_pong rainbow_pong", suite="atari5") == [
        *(f"ppo_{game}" for game in ("battle_zone", "double_dunk", "name_this_game", "qbert")),
        *(f"rainbow_{game}" for game in ("battle_zone", "double_dunk", "name_this_game", "phoenix", "qbert")),
    ]
    assert {name.removeprefix("ppo_") for name in asked(targets="ppo_pong", suite="mujoco7")} == {
        "half_cheetah", "hopper", "inverted_double_pendulum", "inverted_pendulum", "reacher", "swimmer", "walker2d",
    }  # fmt: skip
    claims = asked(targets="prioritized_dqn_pong double_dqn_pong", suite="all_claims")
    assert claims == ["double_dqn_overestimation", "prioritized_dqn_blind_cliffwalk"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"targets": "pppo_*"}, "no target fits 'pppo_\\*' \\(did you mean 'ppo'"),
        ({"targets": "dqn_pong", "suite": "mujoco7"}, "suite: mujoco7: dqn has none of its tasks"),
        ({"targets": "foo_*"}, "no target fits 'foo_\\*'; patterns are like dqn_\\* .*./run targets lists"),
        ({"suite": "atari50"}, "there are: atari5, atari49"),
    ],
)  # fmt: skip
def test_a_pattern_or_suite_that_fits_nothing_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        Flow(config)
