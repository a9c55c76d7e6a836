"""The folder of one run: its lock, what an earlier run left, and the outputs at the end.

The recipe that survives every kill: a lock on the folder; checkpoints in a folder that no workflow rule declares; a key of the
settings and the code; outputs written last, by rename, and kept until then so that a finished run can write them again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import fsync_folder, write_file, write_json
from common.runs.checkpoint import Checkpoints
from common.say import say

OUTPUTS = ("curve.csv", "episodes.csv", "timing.csv", "model.safetensors", "run.json")  # run.json last


class RunFolder:
    """path: the run's folder; work: what it needs while it goes on; live: logs to look at.

    settings_key, key: of the settings, and of the settings with code, packages and ROM.
    """

    def __init__(self, path: Path, settings_key: str, key: str, outputs: tuple[str, ...] = OUTPUTS):
        self.path, self.work, self.live = path, path / "checkpoint", path / "checkpoint" / "live"
        self.settings_key, self.key, self.outputs = settings_key, key, outputs
        self.checkpoints = Checkpoints(self.work, key)
        self.notes: list[str] = []  # for the page: what was unusual about taking it
        self._lock: Any = None

    # --- taking it ---

    def take(
        self, *, fresh: bool, resume_changed: bool, whole_length: bool, command: str = "the same command"
    ) -> bool:
        """Takes the folder's lock, waiting for whoever holds it; True if the run is finished already.

        fresh: what is there is put aside. whole_length: a run that ended when it had reached the published score is not
        finished. An earlier run of other settings is put aside. When only code, packages or ROM changed, UserError says how to
        go on, and nothing is touched; `resume_changed` goes on with it, or with the newest such run that was put aside.
        The outputs of a finished run are written again.
        """
        self._lock_it()
        self._finish_putting_aside()
        if fresh:
            self._put_aside("--fresh was given")
        done = self._read_done()
        found = self._keys(done)
        if resume_changed and not any(key.startswith(self.settings_key) for key in found):
            self._take_back()
            done = self._read_done()
            found = self._keys(done)
        same_settings = {key for key in found if key.startswith(self.settings_key)}
        if same_settings and self.key not in found:
            old = sorted(same_settings)[0]
            what = f"code, packages (uv.lock) or ROM changed since (key {old}, now {self.key})"
            if not resume_changed:
                raise UserError(
                    f"{self.path} holds a run {self._state(done)}, and {what}. Nothing was touched. To go on with it, noted "
                    f"on its page: {command} --resume-changed (in the workflow: --config resume_changed=true). To train "
                    "anew and put it aside: --fresh (in the workflow: --config fresh=true)"
                )
            self.checkpoints.also = same_settings
            self.notes.append(f"resumed on purpose although {what}")
            say(self.notes[-1])
        if done is not None and done["key"] in {self.key, *self.checkpoints.also}:
            if done.get("stopped") != "reached" or not whole_length:
                self.write_outputs()
                self.clean_up()
                return True
            why = "the earlier run ended when it had reached the published score, and now the whole length is asked for"
            self._put_aside(why)
        elif found and not same_settings:
            self._put_aside(f"settings changed since (key {sorted(found)[0]}, now {self.key})")
        return False

    def _keys(self, done: dict | None) -> set[str]:
        return ({done["key"]} if done else set()) | self.checkpoints.keys()

    def _state(self, done: dict | None) -> str:
        if done:
            return "that is finished"
        newest = self.checkpoints.all()[0].name.removeprefix("step-")
        return f"that was saved at agent step {int(newest):,}"

    def _take_back(self) -> None:
        """Puts the newest run of these settings that was put aside back in its place, if there is one."""

        def number(folder: Path) -> int:
            return int(folder.name.removeprefix("stale-"))

        for aside in sorted(self.work.glob("stale-[0-9]*"), key=number, reverse=True):
            earlier = RunFolder(self.path, self.settings_key, self.key, self.outputs)
            earlier.work = earlier.checkpoints.folder = aside
            if not any(key.startswith(self.settings_key) for key in earlier._keys(earlier._read_done())):
                continue
            self._put_aside("--resume-changed was given")
            shutil.rmtree(self.live, ignore_errors=True)
            for thing in list(aside.iterdir()):
                thing.rename(self.work / thing.name)
            aside.rmdir()
            return

    def release(self) -> None:
        """Lets go of the folder, after the checkpoint that is being written."""
        with contextlib.suppress(UserError):
            self.checkpoints.wait()
        if self._lock:
            with contextlib.suppress(OSError):  # what a full disk has no room for
                self._lock.close()

    def _lock_it(self) -> None:
        try:
            self.live.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.work / ".lock", "a+")  # noqa: SIM115 (held as long as the run)
        except OSError as problem:
            raise UserError(
                f"{self.path} cannot be written ({problem.strerror}); choose another --results folder"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            say(f"{self.path} is in use by process {self._lock.read().strip() or '?'}; waiting until it ends")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # only informs; a full disk must not end here
            os.ftruncate(self._lock.fileno(), 0)
            os.write(self._lock.fileno(), str(os.getpid()).encode())

    # --- what an earlier run left ---

    def _read_done(self) -> dict | None:
        try:
            try:
                text = (self.work / "done" / "done.json").read_text()
            except FileNotFoundError:
                return None
            done = json.loads(text)
            if set(done["sha256"]) != set(self.outputs):
                named = ", ".join(sorted(done["sha256"]))[:200]
                raise ValueError(f"done.json names {named}, not {', '.join(self.outputs)}")
            for name, checksum in done["sha256"].items():
                if hashlib.sha256((self.work / "done" / name).read_bytes()).hexdigest() != checksum:
                    raise ValueError(f"{name} does not match its checksum")
            return {"key": str(done["key"]), "stopped": done.get("stopped")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
            self._put_aside(f"the finished run in {self.work / 'done'} is damaged ({problem})")
            return None

    def _put_aside(self, why: str) -> None:
        """Moves everything of an earlier run out of the way; deletes nothing."""
        things = [p for p in self.work.iterdir() if p.name != ".lock" and not p.name.startswith("stale-")]
        if not any(p.name.startswith(("step-", "done")) for p in things):
            return
        (self.work / ".aside").mkdir()  # from here on the next start goes on with it, should this one end
        aside = self._finish_putting_aside()
        say(f"starting over: {why}. The earlier run was put aside in {aside}")

    def _finish_putting_aside(self) -> Path | None:
        """Moves what is left of an earlier run into `.aside`, which then gets its name: frames and checkpoints stay together."""
        collected, number = self.work / ".aside", 1
        if not collected.is_dir():
            return None
        for thing in list(self.work.iterdir()):
            known = thing.name in (".lock", ".aside") or thing.name.startswith("stale-")
            if not known and not (collected / thing.name).exists():  # `live` may have been made anew by now
                thing.rename(collected / thing.name)
        while (aside := self.work / f"stale-{number}").exists():
            number += 1
        self.live.mkdir(exist_ok=True)
        collected.rename(aside)
        return aside

    # --- the end ---

    def write_done(self, files: dict[str, bytes], stopped: str) -> None:
        """Keeps a copy of the outputs (by name), from which they can be written again."""
        done = self.work / ".done.tmp"
        shutil.rmtree(done, ignore_errors=True)
        done.mkdir()
        for name, content in files.items():
            write_file(done / name, content)
        checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        write_json(done / "done.json", {"key": self.key, "stopped": stopped, "sha256": checksums})
        shutil.rmtree(self.work / "done", ignore_errors=True)
        os.replace(done, self.work / "done")
        fsync_folder(self.work)

    def write_outputs(self) -> None:
        for name in self.outputs:
            write_file(self.path / name, (self.work / "done" / name).read_bytes())

    def clean_up(self) -> None:
        """What a finished run no longer needs."""
        for old in [*self.checkpoints.all(), *self.work.glob("torn-*")]:
            shutil.rmtree(old)
        (self.work / "frames.bin").unlink(missing_ok=True)
