"""Recording finished runs: what is kept, what is refused, and that nothing half-done is ever seen."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from common.evaluation import protocol as final_evaluation
from common.evaluation.video import read_mp4, write_mp4
from common.papers import REPLICATIONS
from common.runs import record as recording
from common.runs.finished import WITHOUT_WEIGHTS
from common.runs.record import record, refilm

SCORES = {1: 10.0, 2: 30.0, 3: 20.0}  # seed 3 is the median


def make_run(results: Path, seed: int = 1, score: float | None = None, **changes) -> Path:
    folder = results / "dqn" / "pong" / "hour" / f"seed{seed}"
    folder.mkdir(parents=True)
    score = SCORES[seed] if score is None else score
    run = {
        "paper": "dqn", "variant": None, "task": "pong", "budget": "hour", "seed": seed,
        "settings": {"num_envs": 1, "training_steps": 500}, "settings_key": f"{seed:012x}", "overrides": {},
        "progress": {"agent_steps": 500, "frames": 2000, "updates": 100, "episodes": 2},
        "result": {"best_score": score, "best_agent_step": 400, "stopped": "length", "counts": {}},
        "provenance": {"commit": "a" * 40, "code_sha256": "c" * 64, "lock_sha256": "d" * 64, "rom_sha256": "e" * 64, "notes": ["earlier"]},
        "cost": {"seconds": 10.0},
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    save_file({"fc.weight": torch.rand(4, 3), "steps": torch.tensor([7])}, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    evaluation = {key: run[key] for key in ("paper", "variant", "task", "budget", "seed")} | {
        "score": score, "episodes": [{"seed": 5 + i, "score": score - 1 + 2 * i, "length": 9} for i in (0, 1)],
        "extra_episodes": [], "weights_sha256": digest, "protocol": {}, "device": "cpu",
    }  # fmt: skip
    (folder / "curve.csv").write_text("agent_steps,frames,eval_score\n250,1000,\n500,2000,3.5\n")
    (folder / "episodes.csv").write_text(
        "episode,agent_steps,frames,score,length\n1,200,800,-21,200\n2,450,1800,-20,250\n"
    )
    (folder / "timing.csv").write_text("agent_steps,seconds,steps_per_second\n500,10,50\n")
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "episode.mp4").write_bytes(b"not looked at")
    return folder


@pytest.fixture
def replications(tmp_path):
    (tmp_path / "replications" / "dqn").mkdir(parents=True)
    (tmp_path / "replications" / "dqn" / "paper.yaml").write_text("paper: dqn\n")
    return tmp_path / "replications"


@pytest.fixture
def evaluated(monkeypatch):
    """Stands in for the real evaluation: notes the weights it was given, and writes what that one writes."""
    calls = []

    def evaluate_run(folder, device="auto"):
        weights = load_file(folder / "model.safetensors")
        calls.append({name: tensor.clone() for name, tensor in weights.items()})
        run = json.loads((folder / "run.json").read_text())
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        result = {
            "score": 19.0,
            "episodes": [{"seed": 5, "score": 19.0, "length": 9}],
            "weights_sha256": digest,
        }
        (folder / "evaluation.json").write_text(json.dumps(result | {"seed": run["seed"]}))
        write_mp4(folder / "episode.mp4", (np.zeros((32, 32, 3), np.uint8) for _ in range(15 * 60)))
        return result

    monkeypatch.setattr(final_evaluation, "evaluate_run", evaluate_run)
    return calls


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def notes(folder: Path) -> list[str]:
    return json.loads((folder / "run.json").read_text())["provenance"]["notes"]


def test_median_seed_keeps_rounded_weights_and_is_evaluated_with_them(tmp_path, replications, evaluated):
    runs = [make_run(tmp_path / "results", seed) for seed in (2, 1, 3)]
    before = tree(tmp_path / "results")
    target = record(runs, replications=replications)
    assert target == replications / "dqn" / "recorded" / "base" / "pong" / "hour"
    assert tree(tmp_path / "results") == before

    logs = {"curve.csv", "episodes.csv", "timing.csv", "run.json", "evaluation.json"}
    assert {p.name: {f.name for f in p.iterdir()} for p in target.iterdir()} == {
        "seed1": logs,
        "seed2": logs,
        "seed3": logs | {"model.safetensors", "episode.mp4"},
    }
    assert [p.name for p in target.parent.iterdir()] == ["hour"]

    weights = load_file(target / "seed3" / "model.safetensors")
    original = load_file(runs[2] / "model.safetensors")
    assert weights["fc.weight"].dtype == torch.float16
    assert torch.equal(weights["fc.weight"], original["fc.weight"].half())
    assert weights["steps"].dtype == torch.int64
    assert len(evaluated) == 1
    assert torch.equal(
        evaluated[0]["fc.weight"], weights["fc.weight"]
    )  # rounded before the evaluation, not after

    recorded = json.loads((target / "seed3" / "evaluation.json").read_text())
    assert recorded["score"] == 19.0
    assert (
        recorded["weights_sha256"]
        == hashlib.sha256((target / "seed3" / "model.safetensors").read_bytes()).hexdigest()
    )
    assert sum(1 for _ in read_mp4(target / "seed3" / "episode.mp4")) == 45 * 15
    assert notes(target / "seed3")[0] == "earlier"
    assert "float16" in notes(target / "seed3")[1]
    assert "19" in notes(target / "seed3")[1]
    assert "before rounding 20" in notes(target / "seed3")[1]

    for seed, folder in ((2, runs[0]), (1, runs[1])):
        for name in ("curve.csv", "episodes.csv", "timing.csv"):
            assert (target / f"seed{seed}" / name).read_bytes() == (folder / name).read_bytes()
        assert json.loads((target / f"seed{seed}" / "evaluation.json").read_text())["score"] == SCORES[seed]


def test_a_variant_has_its_own_folder(tmp_path, replications, evaluated):
    run = make_run(tmp_path / "results", variant="no_replay")
    assert record([run], replications=replications).parts[-3:] == ("no_replay", "pong", "hour")


def test_failure_keeps_the_old_recording_whole(tmp_path, replications, evaluated, monkeypatch):
    runs = [make_run(tmp_path / "results", seed) for seed in (1, 2, 3)]
    target = record(runs, replications=replications)
    before = tree(replications)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(final_evaluation, "evaluate_run", full_disk)
    with pytest.raises(UserError, match=r"No space left on device.*what was recorded before is kept"):
        record(runs[:2], replications=replications)
    assert tree(replications) == before

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(final_evaluation, "evaluate_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(runs[:2], replications=replications)
    assert tree(replications) == before
    assert [p.name for p in target.parent.iterdir()] == ["hour"]


def test_killed_between_the_two_renames(tmp_path, replications, evaluated, monkeypatch):
    run = make_run(tmp_path / "results")
    target = record([run], replications=replications)
    before = tree(target)
    target.rename(target.with_name(".hour.old"))
    (target.with_name(".hour.new") / "seed9").mkdir(parents=True)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "write_trimmed", full_disk)
    with pytest.raises(UserError, match="No space left"):
        record([run], replications=replications)
    # whatever came next, the old one is back in its place
    assert tree(target) == before


def test_failure_of_the_second_rename(tmp_path, replications, evaluated, monkeypatch):
    run = make_run(tmp_path / "results")
    target = record([run], replications=replications)
    before = tree(replications)
    real = recording.os.replace

    def replace(a, b):
        if Path(a).name == ".hour.new":
            raise OSError(5, "Input/output error")
        real(a, b)

    monkeypatch.setattr(recording.os, "replace", replace)
    with pytest.raises(UserError, match="Input/output error"):
        record([run], replications=replications)
    assert tree(replications) == before
    assert [p.name for p in target.parent.iterdir()] == ["hour"]


def test_evaluation_of_other_weights(tmp_path, replications, evaluated):
    run = make_run(tmp_path / "results")
    save_file({"fc.weight": torch.zeros(4, 3)}, run / "model.safetensors")
    with pytest.raises(UserError, match=r"made with other weights.*common\.runs\.evaluate"):
        record([run], replications=replications)


def test_recording_again_replaces(tmp_path, replications, evaluated):
    runs = [make_run(tmp_path / "results", seed) for seed in (1, 2, 3)]
    record(runs, replications=replications)
    target = record(runs[:1], replications=replications)
    assert [p.name for p in target.iterdir()] == ["seed1"]
    assert (target / "seed1" / "model.safetensors").exists()


def test_seeds_that_come_later_join_the_recorded_ones(tmp_path, replications, evaluated):
    """Score 10, then 30, then 20: the weights of 20 are kept in the end, and nothing else of the first two changes."""
    runs = [make_run(tmp_path / "results", seed) for seed in (1, 2, 3)]
    target = record(runs[:1], replications=replications)
    first = tree(target)
    assert record(runs[1:2], add=True, replications=replications) == target
    assert tree(target / "seed1") == {name.removeprefix("seed1/"): content for name, content in first.items()}
    assert not (target / "seed2" / "model.safetensors").exists()
    assert notes(target / "seed2") == ["earlier", WITHOUT_WEIGHTS]
    record(runs[2:], add=True, replications=replications)
    assert [p.parent.name for p in target.glob("*/model.safetensors")] == ["seed3"]
    assert [p.parent.name for p in target.glob("*/*.mp4")] == ["seed3"]
    assert notes(target / "seed1")[-1] == WITHOUT_WEIGHTS
    scores = {
        p.name: json.loads((p / "evaluation.json").read_text())["score"] for p in sorted(target.iterdir())
    }
    assert scores == {"seed1": 19.0, "seed2": 30.0, "seed3": 19.0}  # 19: with rounded weights
    # a seed that is given again takes the place of its recorded one
    record(runs[:1], add=True, replications=replications)
    assert sorted(p.name for p in target.iterdir()) == ["seed1", "seed2", "seed3"]
    assert json.loads((target / "seed1" / "evaluation.json").read_text())["score"] == 10.0


def test_where_the_median_seed_has_no_weights_the_nearest_keeps_them(tmp_path, replications, evaluated):
    runs = [make_run(tmp_path / "results", seed, score) for seed, score in ((1, 10.0), (2, 30.0), (3, 90.0))]
    target = record(runs[:2], replications=replications)
    record(runs[2:], add=True, replications=replications)  # 30 is the median, whose weights are gone
    assert [p.parent.name for p in target.glob("*/model.safetensors")] == ["seed1"]


def test_later_seeds_of_other_code_are_refused(tmp_path, replications, evaluated):
    runs = [make_run(tmp_path / "results", seed) for seed in (1, 2)]
    target = record(runs[:1], replications=replications)
    before = tree(target)
    run = json.loads((runs[1] / "run.json").read_text())
    run["provenance"]["code_sha256"] = "f" * 64
    (runs[1] / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=r"differ in their code.*ffffffffffff"):
        record(runs[1:], add=True, replications=replications)
    assert tree(target) == before


def test_a_recorded_run_without_weights_is_no_new_one(tmp_path, replications, evaluated):
    runs = [make_run(tmp_path / "results", seed) for seed in (1, 2)]
    target = record(runs, replications=replications)
    before = tree(target)
    for act in (
        lambda: record([target / "seed2"], replications=replications),
        lambda: refilm(target / "seed2"),
    ):
        with pytest.raises(UserError, match=r"seed2 was recorded without its weights.*--add"):
            act()
    (target / "seed1" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        record([target / "seed1"], replications=replications)
    assert tree(target / "seed2") == {
        n.removeprefix("seed2/"): c for n, c in before.items() if n.startswith("seed2")
    }


def test_long_episode_logs_are_thinned_and_say_so(tmp_path, replications, evaluated):
    run = make_run(tmp_path / "results")
    rows = [f"{i},{i * 200},{i * 800},-21,200" for i in range(1, 30_001)]
    (run / "episodes.csv").write_text("\n".join(["episode,agent_steps,frames,score,length", *rows]) + "\n")
    target = record([run], replications=replications)
    kept = (target / "seed1" / "episodes.csv").read_text().splitlines()
    assert (target / "seed1" / "episodes.csv").stat().st_size <= 1.05 * recording.EPISODES_BYTES
    assert kept[0] == "episode,agent_steps,frames,score,length"
    assert kept[-200:] == rows[-200:]
    assert set(kept[1:]) < set(rows)
    assert "thinned" in notes(target / "seed1")[1]


def test_films_of_many_bytes_are_cut_shorter(tmp_path):
    # noise, which no encoder makes small
    noise = np.random.default_rng(1).integers(0, 256, (150, 64, 64, 3), np.uint8)
    write_mp4(tmp_path / "episode.mp4", noise)
    before = (tmp_path / "episode.mp4").stat().st_size
    assert before > 2 * recording.VIDEO_BYTES
    recording.cut_videos(tmp_path)
    assert 0.5 < (tmp_path / "episode.mp4").stat().st_size / recording.VIDEO_BYTES < 1.3
    assert sum(1 for _ in read_mp4(tmp_path / "episode.mp4")) < 75


@pytest.mark.parametrize(
    "name", ["run.json", "evaluation.json", "model.safetensors", "curve.csv", "episodes.csv", "timing.csv"]
)
def test_unfinished_and_torn_runs_are_refused(tmp_path, replications, evaluated, name):
    run = make_run(tmp_path / "results")
    content = (run / name).read_bytes()
    torn = [content[: len(content) // 2], content[:-3], b"", b"\xff\xfe\x00", b"[]", b"{}", b"null"]
    if name.endswith("csv"):
        torn = [content[:-3], content + b"1,2\n", content + b"a,b,c\n", b"\xff\xfe\x00"]
    for bad in torn:
        (run / name).write_bytes(bad)
        with pytest.raises(UserError, match=rf"{name} (is damaged|was made with other)"):
            record([run], replications=replications)
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing, so the run is not finished"):
        record([run], replications=replications)
    assert not (replications / "dqn" / "recorded" / "base" / "pong").exists()
    assert evaluated == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"num_envs": 8, "training_steps": 500}}, "settings, num_envs: 1 and 8"),
        ({"settings": {"num_envs": 1}}, "settings, training_steps: 500 and None"),
        ({"task": "breakout"}, "task: 'pong' and 'breakout'"),
        ({"budget": "paper"}, "budget: 'hour' and 'paper'"),
        ({"variant": "fast"}, "variant: None and 'fast'"),
    ],
)
def test_runs_that_do_not_belong_together(tmp_path, replications, evaluated, changes, message):
    runs = [make_run(tmp_path / "results", 1), make_run(tmp_path / "results", 2, **changes)]
    with pytest.raises(UserError, match=f"differ in {message}"):
        record(runs, replications=replications)


@pytest.mark.parametrize(
    ("key", "what"), [("code_sha256", "code"), ("lock_sha256", "uv.lock"), ("rom_sha256", "ROM")]
)
def test_runs_of_different_code(tmp_path, replications, evaluated, key, what):
    runs = [make_run(tmp_path / "results", seed) for seed in (1, 2)]
    run = json.loads((runs[1] / "run.json").read_text())
    run["provenance"][key] = "f" * 64
    (runs[1] / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=rf"differ in their .*{what}.*ffffffffffff"):
        record(runs, replications=replications)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paper", "../../etc"),
        ("task", "a/b"),
        ("variant", "A-b"),
        ("budget", "../hour"),
        ("seed", "1"),
        ("seed", -1),
        ("seed", True),
    ],
)
def test_names_that_would_leave_the_folder(tmp_path, replications, evaluated, key, value):
    run = make_run(tmp_path / "results")
    content = json.loads((run / "run.json").read_text()) | {key: value}
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        record([run], replications=replications)


def test_same_seed_twice(tmp_path, replications, evaluated):
    run = make_run(tmp_path / "results")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    with pytest.raises(UserError, match="both seed 1"):
        record([run, copy], replications=replications)


@pytest.mark.parametrize("changes", [{"diff_sha256": "f" * 64}, {"commit": None}])
def test_a_run_whose_code_is_in_no_commit(tmp_path, replications, evaluated, changes):
    run = make_run(tmp_path / "results")
    path = run / "run.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"provenance": written["provenance"] | changes}))
    with pytest.raises(UserError, match="code of no commit"):
        record([run], replications=replications)


def test_smoke_runs_only_on_request(tmp_path, replications, evaluated):
    run = make_run(tmp_path / "results", budget="smoke")
    with pytest.raises(UserError, match="--allow-smoke"):
        record([run], replications=replications)
    assert record([run], replications=replications, allow_smoke=True).name == "smoke"


def test_unknown_paper_absent_folder_and_no_run(tmp_path, replications, evaluated):
    with pytest.raises(UserError, match="no paper 'ppo'"):
        record([make_run(tmp_path / "results", paper="ppo")], replications=replications)
    with pytest.raises(UserError, match="no such folder"):
        record([tmp_path / "absent"], replications=replications)
    with pytest.raises(UserError, match="no run was given"):
        record([], replications=replications)


def test_weights_that_float16_cannot_hold(tmp_path, replications, evaluated):
    run = make_run(tmp_path / "results")
    save_file({"fc.weight": torch.full((2, 2), 1e6)}, run / "model.safetensors")
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["weights_sha256"] = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(UserError, match=r"fc\.weight.*not finite in float16"):
        record([run], replications=replications)
    assert not (replications / "dqn" / "recorded" / "base" / "pong").exists()


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["record", str(tmp_path / "absent")])
    with pytest.raises(SystemExit) as left:
        recording.run_main(recording.main)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_where_a_run_lay_on_its_machine_is_not_recorded(tmp_path, replications, evaluated):
    folder = make_run(tmp_path / "results", 1, 20.0)
    run = json.loads((folder / "run.json").read_text())
    run["provenance"]["command"] = "python -m replications.dqn.train --results /data/runs --seed 1"
    (folder / "run.json").write_text(json.dumps(run))
    kept = json.loads((record([folder], replications=replications) / "seed1" / "run.json").read_text())
    assert kept["provenance"]["command"] == "python -m replications.dqn.train --seed 1"


def test_no_recorded_run_names_a_folder_of_its_machine():
    files = list((Path(__file__).resolve().parents[3] / "replications").glob("*/recorded/**/run.json"))
    assert files
    assert [file for file in files if "--results" in file.read_text()] == []


def test_all_recorded_runs_together_are_small():
    """They travel with the repository: 60 MB for all papers."""
    sizes = [path.stat().st_size for path in REPLICATIONS.glob("*/recorded/**/*") if path.is_file()]
    assert 1e6 < sum(sizes) < 60e6
