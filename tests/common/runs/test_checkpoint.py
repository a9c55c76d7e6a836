from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.runs.checkpoint import Checkpoints, flatten, get_state, set_state, unflatten


@dataclass
class Counters:
    step: int = 0
    best: float | None = None


def save(checkpoints: Checkpoints, step: int, value: float) -> None:
    checkpoints.save(step, {"x": np.full(3, value), "deep": [{"n": step}]}, {"curve.csv": b"a\n1\n"})
    checkpoints.wait()


def test_round_trip_of_every_kind_of_state(tmp_path):
    rng, net, counters = np.random.default_rng(5), torch.nn.Linear(3, 2), Counters(7, 1.5)
    rng.random(3)
    parts = {"rng": rng, "net": net, "at": counters, "t": torch.arange(4.0), "empty": torch.zeros(0)}
    checkpoints = Checkpoints(tmp_path, "k")
    checkpoints.save(7, {name: get_state(part) for name, part in parts.items()}, {"log.csv": b"hello"})
    expected, weight = rng.random(5), net.weight.detach().clone()
    checkpoints.wait()
    state, logs = checkpoints.load()
    other = {
        "rng": np.random.default_rng(0),
        "net": torch.nn.Linear(3, 2),
        "at": Counters(),
        "t": torch.zeros(4),
        "empty": torch.zeros(0),
    }
    for name, part in other.items():
        set_state(part, state[name])
    assert (other["rng"].random(5) == expected).all()
    assert torch.equal(other["net"].weight, weight)
    assert other["at"] == Counters(7, 1.5)
    assert other["t"].tolist() == [0, 1, 2, 3]
    assert logs == {"log.csv": b"hello"}


def test_the_state_is_copied_when_saved(tmp_path):
    """Training goes on while the file is written: what changes afterwards must not be in it."""
    x = np.zeros(1000)
    checkpoints = Checkpoints(tmp_path, "k")
    checkpoints.save(1, {"x": x}, {}, flush=lambda: x.fill(9))
    checkpoints.wait()
    assert (checkpoints.load()[0]["x"] == 0).all()


def test_two_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "k")
    for step in (1, 2, 3):
        save(checkpoints, step, step)
    assert [p.name for p in checkpoints.all()] == ["step-000000000003", "step-000000000002"]
    assert checkpoints.load()[0]["deep"] == [{"n": 3}]


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest", "no manifest", "empty"])
def test_a_torn_newest_falls_back_to_the_one_before(tmp_path, capsys, damage):
    checkpoints = Checkpoints(tmp_path, "k")
    save(checkpoints, 1, 1.0)
    save(checkpoints, 2, 2.0)
    newest = checkpoints.all()[0]
    tensors = newest / "state.safetensors"
    content = tensors.read_bytes()
    if damage == "truncate":
        tensors.write_bytes(content[:-5])
    elif damage == "flip":
        tensors.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "manifest":
        (newest / "manifest.json").write_text('{"key": "k", "sha')
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        for file in newest.iterdir():
            file.unlink()
    assert checkpoints.load()[0]["x"].tolist() == [1.0, 1.0, 1.0]
    assert "step-000000000002 is damaged" in capsys.readouterr().out


def test_torn_ones_do_not_count_as_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "k")
    for step in (1, 9):
        save(checkpoints, step, step)
    (checkpoints.all()[0] / "state.json").write_text("{")
    checkpoints.load()
    for step in (3, 4):
        save(checkpoints, step, step)
    assert [p.name for p in checkpoints.all()] == ["step-000000000004", "step-000000000003"]


def test_the_same_step_again_keeps_the_whole_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, "k")
    save(checkpoints, 1, 1.0)
    before = checkpoints.all()[0].stat().st_ino
    save(checkpoints, 1, 1.0)
    assert checkpoints.all()[0].stat().st_ino == before
    (checkpoints.all()[0] / "state.json").write_text("{")
    save(checkpoints, 1, 2.0)
    assert checkpoints.load()[0]["x"].tolist() == [2.0, 2.0, 2.0]


def test_when_none_is_whole_nothing_is_deleted_and_the_fix_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, "k")
    save(checkpoints, 1, 1.0)
    (checkpoints.all()[0] / "state.json").write_text("{")
    with pytest.raises(UserError, match="--fresh"):
        checkpoints.load()
    assert len(checkpoints.all()) == 1


def test_another_key_is_never_loaded(tmp_path):
    save(Checkpoints(tmp_path, "one"), 1, 1.0)
    with pytest.raises(UserError, match="belongs to key one, not two"):
        Checkpoints(tmp_path, "two").load()


def test_no_checkpoint_is_not_an_error(tmp_path):
    assert Checkpoints(tmp_path, "k").load() is None


def test_a_half_written_checkpoint_is_invisible(tmp_path, monkeypatch):
    """Killed before the rename: only the temporary folder is there, and the next save cleans it up."""
    checkpoints = Checkpoints(tmp_path, "k")
    save(checkpoints, 1, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(
            "common.runs.checkpoint.fsync_folder", lambda _: (_ for _ in ()).throw(OSError("killed here"))
        )
        checkpoints.save(2, {"x": np.zeros(1)}, {})
        with pytest.raises(UserError, match="killed here"):
            checkpoints.wait()
    assert checkpoints.load()[0]["deep"] == [{"n": 1}]
    save(checkpoints, 2, 2.0)
    assert checkpoints.load()[0]["deep"] == [{"n": 2}]


def test_a_full_disk_is_one_clear_error_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "k")
    save(checkpoints, 1, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        checkpoints.save(2, {"x": np.zeros(1)}, {})
        with pytest.raises(UserError, match=r"No space left.*the one before it is kept"):
            checkpoints.wait()
    assert checkpoints.load()[0]["x"].tolist() == [1.0, 1.0, 1.0]


def test_a_manifest_cannot_point_outside(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", "k")
    save(checkpoints, 1, 1.0)
    manifest = checkpoints.all()[0] / "manifest.json"
    content = json.loads(manifest.read_text())
    content["sha256"]["../../secret"] = "0"
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a plain file name"):
        checkpoints.load()


def test_flatten_keeps_scalars_lists_and_big_integers():
    tensors = {}
    tree = {"a": [1, 2.5, None, "x", True], "big": 2**127, "n": np.int64(3), "t": np.arange(2)}
    flat = flatten(tree, "", tensors)
    back = unflatten(json.loads(json.dumps(flat)), tensors)
    assert back["a"] == [1, 2.5, None, "x", True]
    assert back["big"] == 2**127
    assert back["n"] == 3
    assert back["t"].tolist() == [0, 1]
