"""The page of a running training: what it says, and that it is made again until the training is done."""

import datetime
import json
import os
import shutil
from pathlib import Path

import pytest

from common.errors import UserError
from reports import watch
from reports.files import training_scores
from reports.render import PREVIEW
from tests.reports.pages import CURVE, Reader, target_of, write_progress, write_run
from tests.reports.test_page import REFERENCE


def status(folder: Path, **changes) -> None:
    path = folder / "checkpoint" / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def now(seconds_ago: float = 0) -> str:
    return (datetime.datetime.now().astimezone() - datetime.timedelta(seconds=seconds_ago)).isoformat()


def test_course_and_time_left(toy, capsys):
    (toy / "replications/toy/reference_curves.csv").write_text(REFERENCE)
    write_run(
        toy, size="paper", frames=4_000_000
    )  # a finished, longer one: what is watched is the running one
    folder = write_progress(toy, curve="\n".join([CURVE, "375000,1500000,1,9,1,-3,5,-14,,,"]) + "\n")
    status(folder, updated=now(), agent_steps=400_000, training_steps=500_000, steps_per_second=100.0)
    watch.watch(target_of(toy), toy / "results", toy / "page.html", once=True)
    line = capsys.readouterr().out.splitlines()[0]
    assert "seed 1: training; 400,000 of 500,000 agent steps; 100 steps/s; about 17 min left" in line
    assert "on the reference course: \u221214.0 beside \u221215.0 ± 2.0 (another protocol)" in line
    p = Reader((toy / "page.html").read_text())
    assert p.html["data-size"] == "hour"
    assert "On the reference course" in p.words
    assert "refresh" not in [a.get("http-equiv") for _, a in p.tags], "looked at once, it stays as it is"
    assert (toy / "page.html").stat().st_mtime == PREVIEW


def test_a_silent_training_is_said_to_be_silent(toy, capsys):
    folder = write_progress(toy, curve="")
    status(folder, updated=now(7200))
    watch.watch(target_of(toy), toy / "results", toy / "page.html", once=True)
    assert "no sign of life for 2.0 h" in capsys.readouterr().out
    assert (
        "about"
        not in Reader((toy / "page.html").read_text()).words.split("No sign of life")[0].split("How far")[1]
    )


def test_before_the_first_evaluation_phase_the_training_scores_are_drawn(toy):
    folder = write_progress(toy, curve=CURVE + "\n")
    rows = [f"{i},{10 * i},{40 * i},{i},10" for i in range(1, 251)]
    path = folder / "checkpoint" / "live" / "episodes.csv"
    path.write_text("\n".join(["episode,agent_steps,frames,score,length", *rows]) + "\n251,25")
    curve = training_scores(path)
    assert curve.columns["frames"][-1] == 10_000
    assert curve.columns["train_score_100"][-1] == pytest.approx(200.5)  # of 151 to 250
    assert curve.columns["train_score_100"][49] == pytest.approx(25.5)  # the first fifty
    watch.watch(target_of(toy), toy / "results", toy / "page.html", once=True)
    (chart,) = Reader((toy / "page.html").read_text()).data["sections"][0]["charts"]
    assert chart["title"].startswith("Training score")
    assert chart["series"][0]["y"][-1] == 200.5


def test_it_looks_again_until_all_is_finished(toy, monkeypatch, capsys):
    seen, said = [], []

    def sleep(seconds):
        text = (toy / "page.html").read_text()
        seen.append(Reader(text).html["data-verdict"])
        said.append('http-equiv="refresh" content="60"' in text)
        if len(seen) == 1:
            status(write_progress(toy, curve=""), updated=now())
        if len(seen) == 2:  # half-written files end nothing
            (toy / "results/toy/pong/hour/seed1/run.json").write_text("{")
        if len(seen) == 3:
            os.rename(toy / "results/toy/pong/hour/seed1", toy / "aside")
            write_run(toy)
        assert len(seen) < 9

    monkeypatch.setattr(watch.time, "sleep", sleep)
    watch.watch(target_of(toy), toy / "results", toy / "page.html")
    assert seen == ["nothing_yet", "in_progress", "in_progress"]
    assert said == [True, True, True]
    text = (toy / "page.html").read_text()
    assert Reader(text).html["data-verdict"] == "reached"
    assert "refresh" not in text.split("</head>")[0]
    out = capsys.readouterr().out
    assert "waiting for a training to start" in out
    assert "looking again in 60 s" in out


def test_mistakes_on_the_command_line(toy):
    with pytest.raises(UserError, match="unknown target 'dqn_pnog'"):
        watch.main(["dqn_pnog"])
    with pytest.raises(UserError, match="--every 0 is too short"):
        watch.main(["dqn_pong", "--every", "0"])


def test_watch_ends_on_the_readers_own_run_although_a_longer_one_is_recorded(toy, monkeypatch, capsys):
    write_run(toy, size="paper", frames=4_000_000, recorded=True)
    folder = write_progress(toy, curve="", size="smoke")
    status(folder, updated=now())

    def sleep(seconds):
        shutil.rmtree(folder)
        write_run(toy, size="smoke", mean=-3.0, frames=2000)

    monkeypatch.setattr(watch.time, "sleep", sleep)
    watch.watch(target_of(toy), toy / "results", toy / "page.html")
    page = Reader((toy / "page.html").read_text())
    assert (page.html["data-source"], page.html["data-size"]) == ("own", "smoke")
    assert "of the paper's training this agent scores" in capsys.readouterr().out.splitlines()[-1]
    watch.watch(target_of(toy), toy / "results", toy / "page.html", once=True)
    assert Reader((toy / "page.html").read_text()).html["data-size"] == "smoke"
