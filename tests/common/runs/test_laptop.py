"""A task with claims from its command line to its recorded copy: files, bytes, lock, bad input, claims in paper.yaml."""

import json
import sys

import pytest

from common import papers
from common.errors import UserError
from common.papers import check_defaults, load_paper, resolve
from common.runs import laptop, provenance, record
from common.runs.clean import clean
from common.runs.laptop import Findings
from replications.double_dqn import overestimation
from tests.toy import write_toy

LITTLE = ["--theorem-1-draws=20", "--theorem-2-repetitions=500", "--repetitions=5"]


def run(monkeypatch, results, *words, experiment=overestimation.experiment):
    """The script in this process; returns the run's folder."""
    arguments = ["--seed=1", "--budget=smoke", f"--results={results}", *LITTLE, *words]
    monkeypatch.setattr(sys, "argv", ["overestimation", *arguments])
    monkeypatch.setattr(papers, "overridden_size", lambda budget, _: budget)  # one folder for any settings
    laptop.main("double_dqn", "overestimation", overestimation.Config, experiment)
    seed = next(word.split("=")[1] for word in reversed(arguments) if word.startswith("--seed"))
    return results / "double_dqn" / "overestimation" / "smoke" / f"seed{seed}"


def contents(folder):
    return {name: (folder / name).read_bytes() for name in laptop.OUTPUTS}


def test_a_run_leaves_measures_points_and_provenance(tmp_path, monkeypatch, capsys):
    folder = run(monkeypatch, tmp_path)
    written = json.loads((folder / "run.json").read_text())
    assert (written["task"], written["seed"], written["settings"]["repetitions"]) == ("overestimation", 1, 5)
    assert written["provenance"]["code_sha256"] == provenance.code_fingerprint("double_dqn", "overestimation")
    assert written["provenance"]["rom_sha256"] is None
    measures = json.loads((folder / "measures.json").read_text())
    assert round(measures["row_3_single"], 2) == 3.35
    assert (folder / "points.csv").read_text().startswith("figure,series,x,y\nfigure_1,single: max Q,2,")
    before = contents(folder)
    (folder / "measures.json").unlink()  # as Snakemake does with the outputs of a job that was stopped
    run(monkeypatch, tmp_path)
    assert contents(folder) == before  # written again, not run again
    assert "finished already" in capsys.readouterr().out
    (folder / "checkpoint" / "done" / "measures.json").write_text("{}")  # torn: done again, to the same bytes
    run(monkeypatch, tmp_path)
    assert "is damaged" in capsys.readouterr().out
    assert [contents(folder)[name] for name in laptop.OUTPUTS[:2]] == [
        before[name] for name in laptop.OUTPUTS[:2]
    ]


def test_other_settings_start_over_and_keep_what_was(tmp_path, monkeypatch, capsys):
    folder = run(monkeypatch, tmp_path)
    before = contents(folder)
    run(monkeypatch, tmp_path, "--repetitions=6")
    assert "starting over: settings changed" in capsys.readouterr().out
    assert contents(folder)["measures.json"] != before["measures.json"]
    aside = folder / "checkpoint" / "stale-1" / "done"
    assert (aside / "measures.json").read_bytes() == before["measures.json"]


def test_changed_code_stops_and_the_advice_given_helps(tmp_path, monkeypatch, capsys):
    folder = run(monkeypatch, tmp_path)
    before = contents(folder)
    (folder / "measures.json").unlink()
    monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: "e" * 64)
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path)
    said = capsys.readouterr().err
    assert f"--results={tmp_path}" in said  # the whole command
    assert "--resume-changed (in the workflow: --config resume_changed=true)" in said
    run(monkeypatch, tmp_path, "--resume-changed")
    assert contents(folder) == before


def test_a_run_that_fails_leaves_no_outputs(tmp_path, monkeypatch, capsys):
    def broken(config, seed):
        return Findings({"row_1_single": float("nan")}, [])

    def other(config, seed):
        return Findings({"row_9": 1.0}, [])

    for experiment, message in (
        (broken, "came out as nan"),
        (other, "the claim 'theorem_1_bound' is about 'bound_held'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, tmp_path, experiment=experiment)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    folder = tmp_path / "double_dqn" / "overestimation" / "smoke" / "seed1"
    assert not any((folder / name).exists() for name in laptop.OUTPUTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--task=pong"],
            "the task 'pong' is not of this script; run python -m replications.double_dqn.train --task pong",
        ),
        (["--device=cuda"], "device"),
        (["--seed=-1"], "a whole number from 1 to 4,294,967,295"),
        (["--budget=papers"], "unknown budget 'papers'"),
        (["--repetitions=0"], "repetitions: 0 is not allowed; 1 or more"),
        (["--fitted-actions=11"], "from 2 to 10"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path, *words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_the_fingerprint_is_of_the_tasks_own_script():
    prints = {
        provenance.code_fingerprint("double_dqn", "overestimation"),
        provenance.code_fingerprint("double_dqn"),
    }
    assert len(prints | {provenance.code_fingerprint("prioritized_dqn", "blind_cliffwalk")}) == 3


@pytest.mark.parametrize("paper", ["double_dqn", "prioritized_dqn", "dueling_dqn"])
def test_every_claim_has_its_measure_and_every_constant_its_default(paper):
    import importlib

    loaded = load_paper(paper)
    assert check_defaults(loaded) == []
    (task,) = [task for task in loaded.tasks.values() if task.claims]
    script = importlib.import_module(f"replications.{paper}.{task.script}")
    found = script.experiment(script.Config(**resolve(loaded, None, task.name, "smoke").settings), 1)
    laptop.check_claims(task, found.measures)
    assert {figure["name"] for figure in task.figures} == {figure for figure, *_ in found.points}


# --- recording, cleaning ---


def test_record_keeps_every_seed_whole_and_clean_knows_them(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "check_settings", lambda *_: None)
    monkeypatch.setattr(provenance, "uncommitted", lambda: "")  # whoever develops has some
    folders = [run(monkeypatch, tmp_path / "results", f"--seed={seed}") for seed in (1, 2, 3)]
    copies = tmp_path / "replications"
    (copies / "double_dqn").mkdir(parents=True)
    (copies / "double_dqn" / "paper.yaml").touch()
    with pytest.raises(UserError, match="is a smoke run"):
        record.record(folders, replications=copies)
    target = record.record(folders, replications=copies, allow_smoke=True)
    assert target == copies / "double_dqn" / "recorded" / "base" / "overestimation" / "smoke"
    for folder in folders:
        for name in laptop.OUTPUTS[:2]:
            assert (target / folder.name / name).read_bytes() == (folder / name).read_bytes()
        assert sorted(p.name for p in (target / folder.name).iterdir()) == sorted(laptop.OUTPUTS)
    with pytest.raises(UserError, match="are both seed 1; give each seed once"):
        record.record([folders[0], folders[0]], replications=copies, allow_smoke=True)
    other = run(monkeypatch, tmp_path / "other", "--seed=4", "--repetitions=6")
    with pytest.raises(UserError, match="differ in settings, repetitions: 5 and 6"):
        record.record([folders[0], other], replications=copies, allow_smoke=True)
    assert (folders[0] / "checkpoint" / "done").exists()
    clean(tmp_path / "results")
    assert not (folders[0] / "checkpoint" / "done").exists()
    assert (folders[0] / "measures.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("measures.json", "{", "measures.json is damaged"),
        ("measures.json", '{"bound_held": NaN}', "not a finite number"),
        ("measures.json", "{}", "or there is none"),
        ("points.csv", "figure,series,x,y\nfigure_1,a,1", "its last line is cut off"),
        ("points.csv", None, "points.csv is missing"),
        ("run.json", '{"paper": "double_dqn"}', "run.json is damaged"),
    ],
)
def test_damaged_runs_are_not_recorded(tmp_path, monkeypatch, name, content, message):
    folder = run(monkeypatch, tmp_path / "results")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=message):
        record.record([folder], allow_smoke=True, replications=tmp_path)


# --- claims in paper.yaml ---

CLAIMS = """    published: none
    published_reason: claims are inequalities
    settings: {states: 16}
"""
WITH = """    constants:
      - {name: states, field: states, paper: 8, unit: states, source: Figure 1}
      - {name: noise, field: null, paper: null, unit: none, source: not stated, ours: 0.5, reason: any will do}
    deviations: [{what: A round ring, reason: the paper's is square}]
    claims: [{name: a, statement: it holds, measure: m, at_least: 1, source: Figure 1}]
    settings: {states: 16}
"""


@pytest.fixture
def toy(tmp_path):
    root = write_toy(tmp_path)
    edit(root, CLAIMS, WITH)
    edit(root, "    title: Ring\n    protocol: full\n", "    title: Ring\n")
    return root


def edit(root, old, new):
    file = root / "toy" / "paper.yaml"
    assert file.read_text().count(old) == 1, old
    file.write_text(file.read_text().replace(old, new))


def test_a_task_with_claims_needs_no_protocol_and_no_score(toy):
    ring = load_paper("toy", toy).tasks["ring"]
    assert (ring.claims[0].name, ring.claims[0].at_least, ring.claims[0].at_most) == ("a", 1, None)
    assert ring.published is None
    found = {
        d.what: (d.paper, d.ours, d.origin)
        for d in resolve("toy", None, "ring", "paper", root=toy).deviations
    }
    assert found == {
        "A round ring": (None, None, "listed"), "states": (8, 16, "task"), "noise": (None, 0.5, "paper"),
    }  # fmt: skip
    assert "A round ring" not in {d.what for d in resolve("toy", None, "pong", "paper", root=toy).deviations}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("at_least: 1, ", "", "at_least, at_most or both are needed"),
        ("at_least: 1, ", "at_least: 1, at_most: 0, ", "at_least 1 is above at_most 0"),
        ("at_least: 1, ", "at_least: 0, factor: true, ", "the bounds of a factor are above 0"),
        ("at_least: 1, ", "atleast: 1, ", "unknown key 'atleast'"),
        ("measure: m, ", "", "key 'measure' is missing"),
        ("source: Figure 1}]", "source: F}, {name: a, statement: s, measure: m, at_most: 1, source: F}]", "given twice"),
        ("field: states, paper: 8", "field: stats, paper: 8", "field 'stats' is not in Config of"),
        ("kind: gym\n", "kind: gym\n    claims: [{name: a, statement: s, measure: m, at_most: 1, source: F}]\n",
         "'claims' belongs to kind claims, not gym"),
    ],
)  # fmt: skip
def test_bad_claims(toy, old, new, message):
    edit(toy, old, new)
    with pytest.raises(UserError, match=message):
        load_paper("toy", toy)


def test_defaults_of_a_script_of_its_own_are_checked(toy):
    assert check_defaults(load_paper("toy", toy)) == []
    edit(toy, "field: states, paper: 8, unit", "field: states, paper: 9, unit")
    assert check_defaults(load_paper("toy", toy)) == ["ring: Config.states is 8, paper.yaml says 9"]
