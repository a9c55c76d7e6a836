"""A container's user has no name and no home; a clone may be somebody else's: a run goes on, or one sentence says what to do."""

import getpass
import os
import pwd
from pathlib import Path

import pytest

from common.errors import UserError, run_main
from common.files import must_be_ones_own
from common.runs import tracking
from common.surroundings import make_a_home, name_the_user


def nobody(_):
    raise KeyError("getpwuid(): uid not found")


def test_a_user_id_without_a_name(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert run_main(getpass.getuser) == str(os.getuid())
    monkeypatch.setenv("LOGNAME", "ada")
    name_the_user()
    assert getpass.getuser() == "ada"


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_without_a_home_the_mirror_has_one(monkeypatch, tmp_path, home):
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    make_a_home(tmp_path / "wandb")
    assert os.environ["HOME"] == str(tmp_path / "wandb")
    make_a_home(tmp_path / "another")  # it has one
    assert Path.home() == tmp_path / "wandb"


def test_a_home_that_can_only_be_read_may_hold_the_key(monkeypatch, tmp_path):
    (tmp_path / ".netrc").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    make_a_home(tmp_path / "run")
    assert os.environ["NETRC"] == str(tmp_path / ".netrc")
    monkeypatch.delenv("NETRC")


def test_a_clone_of_somebody_else(monkeypatch, tmp_path):
    must_be_ones_own(tmp_path)
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "logs")
    with pytest.raises(UserError, match=r"logs cannot be written by you.*git clone"):
        must_be_ones_own(tmp_path)


def test_a_mode_of_the_mirror_that_is_none(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "off")
    with pytest.raises(UserError, match=r"WANDB_MODE=off is not allowed.*offline, online, disabled"):
        tracking.mode()
    for word, meant in (("", "offline"), ("disabled", "disabled")):
        monkeypatch.setenv("WANDB_MODE", word)
        assert tracking.mode() == meant
