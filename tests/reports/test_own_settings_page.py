"""Pages of runs with settings of a user's own."""

from __future__ import annotations

import pytest

from common import papers
from reports import render as module
from reports.index import entry_of
from tests.reports.pages import Reader, target_of, write_run
from tests.reports.pages import page as page_of

OWN = {"learning_rate": 0.5}
SIZE = papers.overridden_size("hour", OWN)
PLAIN = {"training_steps": 10_000, "learning_rate": 0.00025, "target_period": 10_000}


def test_a_page_of_its_own_says_so_first_and_has_no_verdict(toy):
    write_run(toy, size="hour", mean=18.5)
    folder = write_run(toy, size=SIZE, mean=18.9, settings=PLAIN | OWN)
    run = folder / "run.json"
    run.write_text(
        run.read_text().replace('"seed": 1,', '"seed": 1, "overrides": {"learning_rate": 0.5},', 1)
    )
    target = target_of(toy)
    plain = page_of(toy)
    assert [s["size"] for s in plain.data["sections"]] == ["hour"]
    assert f"toy_pong-{SIZE}.html" in plain.links
    text, head = module.build(target, "own", toy / "results", only=SIZE)
    own = Reader(text)
    assert [s["size"] for s in own.data["sections"]] == [SIZE]
    words = own.words[own.words.index("Settings of your own: learning rate 0.5 instead of 0.00025") :]
    assert words.startswith(
        "Settings of your own: learning rate 0.5 instead of 0.00025. No replication of TOY (2015)"
    )
    assert "Replication of TOY" not in own.words
    assert own.html["data-verdict"] == "own_settings"
    assert own.data["sections"][0]["g"] is None
    assert "They say nothing about the paper; their score is 18.9" in head["verdict"].sentence
    assert "--config budget=hour settings=learning_rate=0.5 seeds=1" in own.words
    assert entry_of(target, toy / "results").size == "hour"


def test_tuned_runs_where_the_papers_lie_have_no_verdict_either(toy):
    """Made before such runs had folders of their own."""
    write_run(toy, size="hour", mean=18.9, settings=PLAIN | OWN)
    page = page_of(toy)
    assert page.html["data-verdict"] == "own_settings"
    assert entry_of(target_of(toy), toy / "results").verdict.key == "own_settings"


def test_the_pages_that_a_page_leads_to_are_made_with_it(toy, monkeypatch):
    write_run(toy, size=SIZE, mean=18.9, settings=PLAIN | OWN)
    monkeypatch.setattr(module, "load_target", lambda name: target_of(toy, name.removeprefix("toy_")))
    out = toy / "reports" / "toy_pong.html"
    module.render("toy_pong", "own", out, toy / "results")
    own = out.with_name(f"toy_pong-{SIZE}.html")
    assert Reader(own.read_text()).html["data-verdict"] == "own_settings"
    assert own.stat().st_mtime == module.PREVIEW
    module.render(own.stem, "own", own, toy / "results")
    assert own.stat().st_mtime != module.PREVIEW
    assert Reader(out.read_text()).html["data-verdict"] == "nothing_yet"


@pytest.mark.parametrize("given", [{"overrides": OWN}, {"budget": SIZE}])
def test_they_are_never_recorded(tmp_path, given):
    from common.errors import UserError
    from common.runs.record import record
    from tests.common.runs.test_record import make_run

    (tmp_path / "replications/dqn").mkdir(parents=True)
    (tmp_path / "replications/dqn/paper.yaml").touch()
    run = make_run(tmp_path / "results", **given)
    with pytest.raises(UserError, match="trained with settings of its own"):
        record([run], replications=tmp_path / "replications")
