"""Table 2's task: the average by hand, what stays open and why, trainings that are timed, stopped and gone on with."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from common import papers
from common.errors import UserError
from common.runs import laptop
from common.runs import run as runs
from common.runs.checkpoint import Checkpoints
from common.runs.provenance import modules_that_count
from replications.a3c import speedup, train
from replications.a3c.speedup import Config, experiment, printed, read_plan, speed_up, time_to_reference

TABLE_2 = {
    "one_step_q": (1, 3.0, 6.3, 13.3, 24.1),
    "one_step_sarsa": (1, 2.8, 5.9, 13.1, 22.1),
    "n_step_q": (1, 2.7, 5.9, 10.7, 17.2),
    "a3c": (1, 2.1, 3.7, 6.9, 12.5),
}
TINY = {"evaluation_period": 100, "evaluation_steps": 60, "most_steps": 300, "fewest_games": 1}
FIRST = Config(**TINY, methods="a3c", workers="1,2", references="cartpole=1")  # reached by any phase
NEVER = Config(**TINY, methods="a3c", workers="1", references="cartpole=501")


def test_the_average_is_of_each_games_ratio():
    times = {"pong": {1: 100.0, 2: 50.0}, "qbert": {1: 90.0, 2: 18.0}, "enduro": {1: None, 2: 7.0}}
    assert speed_up(times, 2, fewest=2) == (
        (100 / 50 + 90 / 18) / 2,
        "",
    )  # 3.5; of summed times it would be 2.79
    value, why = speed_up(times, 2, fewest=3)
    assert (value, why) == (None, "one worker reached the reference score in 2 of 3 games, 3 are needed")
    times["pong"][2] = None  # leaving it out would flatter the average
    assert speed_up(times, 2, fewest=1) == (None, "2 workers did not reach the reference score in pong")


def test_the_claims_are_half_of_what_is_printed():
    task = papers.load_paper("a3c").tasks["speedup"]
    assert {m: tuple(printed(m, n) for n in (1, 2, 4, 8, 16)) for m in TABLE_2} == TABLE_2
    bounds = {claim.measure: [] for claim in task.claims}
    for claim in task.claims:
        assert claim.at_most is None
        assert claim.factor
        bounds[claim.measure].append(claim.at_least)
        method, workers = claim.measure.rsplit("_", 1)
        assert claim.source == f"Table 2: {printed(method, int(workers)):g}"
    expected = {f"{m}_{n}": [printed(m, n) / 2] for m in TABLE_2 for n in (8, 16)}
    for method in ("one_step_q", "one_step_sarsa"):
        expected[f"{method}_16"].append(16)
    assert bounds == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "a3c,one_step"}, "unknown 'one_step'"),
        ({"workers": "2,4"}, "with 1 among them"),
        ({"workers": "1,two"}, "write whole numbers"),
        ({"references": "pomg=3"}, "unknown game 'pomg'"),
        ({"references": "speedup=3"}, "unknown game 'speedup'"),
        ({"references": "pong"}, "write GAME=SCORE"),
        ({"fewest_games": 8}, "references has 7 games"),
        ({"most_steps": 0}, "must be 1 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        read_plan(Config(**changes))


def seconds_like_the_paper(calls: list):
    """Trainings that are not run, each as fast as Table 2 says; in Enduro A3C does not get there."""

    def fake(config, method, game, workers, seed, folder):
        calls.append(workers)
        return None if (method, game) == ("a3c", "enduro") else 100.0 / printed(method, workers)

    return fake


@pytest.mark.parametrize(
    ("here", "ran"), [(1, {1}), (8, {1, 2, 4, 8}), (16, {1, 2, 4, 8, 16}), (64, {1, 2, 4, 8, 16})]
)
def test_workers_without_a_core_are_not_run_and_their_claims_stay_open(monkeypatch, tmp_path, here, ran):
    calls: list[int] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(here)))
    monkeypatch.setattr(speedup, "time_to_reference", seconds_like_the_paper(calls))
    found = experiment(Config(), 1, tmp_path)
    assert set(calls) == ran
    for method, row in TABLE_2.items():
        for n, value in zip((2, 4, 8, 16), row[1:], strict=True):
            name = f"{method}_{n}"
            if n in ran:
                assert found.measures[name] == pytest.approx(value)
            else:
                assert name not in found.measures
                assert found.undecided[name] == f"{n} workers need {n} cores, this machine gives {here}"
    assert not set(found.measures) & set(found.undecided)
    task = papers.load_paper("a3c").tasks["speedup"]
    laptop.check_claims(task, found.measures, found.undecided)
    strange = replace(
        task, claims=(replace(task.claims[0], measure="turns"),)
    )  # neither taken, nor said why not
    with pytest.raises(UserError, match="is about 'turns'; the measures are cores"):
        laptop.check_claims(strange, found.measures, found.undecided)
    drawn = {(series, x): y for _, series, x, y in found.points}
    assert drawn["A3C, printed", 16] == 12.5
    assert (("A3C, here", 8) in drawn) == (here >= 8)


def test_trainings_are_those_of_train_with_that_many_workers(monkeypatch, tmp_path):
    seen = []
    real = train.train

    def spy(config, run):
        handlers = [signal.getsignal(signal.SIGTERM)]
        real(config, run)
        progress, counts = run.parts["progress"], run.parts["counts"]
        seen.append(
            (config.algorithm, config.workers, len(counts), progress.agent_steps, progress.best_score)
        )
        assert signal.getsignal(signal.SIGTERM) not in handlers  # while it trains, a signal saves

    monkeypatch.setattr(train, "train", spy)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    before = signal.getsignal(signal.SIGTERM)
    found = experiment(FIRST, 1, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before  # a training that is over swallows none
    assert [row[:3] for row in seen] == [("a3c", 1, 1), ("a3c", 2, 2)]
    for *_, steps, score in seen:  # ended at the first phase, not at the 300 steps that it may take
        assert 100 <= steps < 100 + 2 * 20  # a rollout of each worker more at most
        assert score >= 1
    one, two = (found.measures[f"a3c_{n}_cartpole_seconds"] for n in (1, 2))
    assert found.measures["a3c_2"] == pytest.approx(one / two)
    monkeypatch.setattr(train, "train", None)  # all is there: nothing is trained again
    again = experiment(FIRST, 1, tmp_path)
    assert again.measures == found.measures


def test_in_a_look_value_based_methods_explore_and_a3c_samples(monkeypatch, tmp_path):
    looks = {}

    def stopped(config, run):
        looks[config.algorithm] = config.evaluation_epsilon
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stopped)
    for method in speedup.METHODS:
        with pytest.raises(KeyboardInterrupt):
            time_to_reference(FIRST, method, "cartpole", 1, 1, tmp_path)
    assert looks == {"one_step_q": 0.05, "one_step_sarsa": 0.05, "n_step_q": 0.05, "a3c": 0.0}


def test_a_score_that_is_never_reached_is_no_time(tmp_path):
    assert time_to_reference(NEVER, "a3c", "cartpole", 1, 1, tmp_path) is None
    record = json.loads(next(tmp_path.glob("a3c_1/a3c/cartpole/*/seed1/run.json")).read_text())
    assert 300 <= record["progress"]["agent_steps"] < 320  # given up
    assert record["result"]["counts"]["evaluations"] == 3
    with pytest.raises(UserError, match="cartpole has 200000 at most"):
        time_to_reference(Config(references="cartpole=1", fewest_games=1), "a3c", "cartpole", 1, 1, tmp_path)


def test_time_is_that_of_playing_and_learning_over_all_attempts(monkeypatch, tmp_path):
    """A clock that only phases and a stop move: a phase takes 1,000 s, an hour passes while nothing runs."""
    clock, real_phase, real_tick = [0.0], runs.evaluation_phase, speedup.Timed.tick
    monkeypatch.setattr(
        runs, "time", SimpleNamespace(monotonic=lambda: clock[0])
    )  # workers keep the real one

    def phase(*arguments):
        clock[0] += 1000
        return real_phase(*arguments)

    class Crash(Exception):
        pass

    def tick(run, progress):
        real_tick(run, progress)
        if crash and progress.evaluations == 2:
            raise Crash  # just saved: more than five minutes have passed
        clock[0] += 10  # of work

    monkeypatch.setattr(runs, "evaluation_phase", phase)
    monkeypatch.setattr(speedup.Timed, "tick", tick)
    crash = True
    with pytest.raises(Crash):
        time_to_reference(NEVER, "a3c", "cartpole", 1, 1, tmp_path)
    clock[0] += 3600
    crash = False
    assert time_to_reference(NEVER, "a3c", "cartpole", 1, 1, tmp_path) is None
    (file,) = tmp_path.glob("a3c_1/a3c/cartpole/*/seed1/time.json")
    # 10 s of work after the ticks at 0, 100 and, resumed there, 200 steps, and one at the end
    assert json.loads(file.read_text()) == {"seconds": 40.0, "reached": False}
    record = json.loads(file.with_name("run.json").read_text())
    assert record["cost"]["evaluation_seconds"] == 3000
    assert record["cost"]["attempts"] == 2


# --- the command line ---


def start(monkeypatch, results, *words):
    monkeypatch.setattr(
        sys, "argv", ["speedup", "--seed=1", "--budget=smoke", f"--results={results}", *words]
    )
    monkeypatch.setattr(papers, "overridden_size", lambda budget, _: budget)  # one folder for any settings
    laptop.main("a3c", "speedup", Config, speedup.experiment, keeps=True)
    return results / "a3c" / "speedup" / "smoke" / "seed1"


def test_what_is_finished_is_kept_until_all_is(monkeypatch, tmp_path):
    folder = tmp_path / "a3c" / "speedup" / "smoke" / "seed1"
    given = []

    def stopped(config, seed, kept):
        given.append(sorted(path.name for path in kept.iterdir()))
        (kept / f"cell{len(given)}").touch()
        raise KeyboardInterrupt

    def finished(config, seed, kept):
        given.append(sorted(path.name for path in kept.iterdir()))
        names = [claim.measure for claim in papers.load_paper("a3c").tasks["speedup"].claims]
        return laptop.Findings({"cores": 2.0}, [], dict.fromkeys(names, "no cores"))

    monkeypatch.setattr(speedup, "experiment", stopped)
    for words in ((), (), ("--most-steps=3000",), ("--fresh",), ()):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            start(monkeypatch, tmp_path, *words)
    assert given == [[], ["cell1"], [], [], ["cell4"]]  # other settings and --fresh begin anew
    monkeypatch.setattr(speedup, "experiment", finished)
    assert start(monkeypatch, tmp_path) == folder
    assert given[-1] == ["cell4", "cell5"]
    assert not (folder / "checkpoint" / "done" / "cell4").exists()
    kept = {path.name for path in (folder / "checkpoint").glob("*kept-*")}
    assert sorted(name.split("-")[0] for name in kept) == [
        "kept",
        "stale",
    ]  # of the other settings, and of --fresh
    record = json.loads((folder / "run.json").read_text())
    assert record["provenance"]["undecided"]["a3c_16"] == "no cores"
    assert "undecided, no cores: one_step_q_8" in record["provenance"]["notes"][0]
    assert json.loads((folder / "measures.json").read_text()) == {"cores": 2.0}
    # the agent it trains is train.py's, so that one's code counts
    assert "replications.a3c.train" in modules_that_count("replications.a3c.speedup")


def test_smoke_reaches_every_method_on_two_cores(monkeypatch, tmp_path):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    words = [
        "--references=cartpole=1",
        "--most-steps=300",
        "--evaluation-period=100",
        "--evaluation-steps=60",
    ]
    folder = start(monkeypatch, tmp_path, *words)
    measures = json.loads((folder / "measures.json").read_text())
    for method in TABLE_2:
        one, two = (measures[f"{method}_{n}_cartpole_seconds"] for n in (1, 2))
        assert measures[f"{method}_2"] == pytest.approx(one / two)
    undecided = json.loads((folder / "run.json").read_text())["provenance"]["undecided"]
    assert undecided["a3c_16"] == "not part of this size"
    assert set(undecided) == {f"{method}_{n}" for method in TABLE_2 for n in (4, 8, 16)}
    assert not list((folder / "checkpoint").glob("kept-*"))
    assert Checkpoints(folder / "checkpoint", "x").all() == []
