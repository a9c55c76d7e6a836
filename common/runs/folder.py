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

    def take(self, *, fresh: bool, resume_changed: bool, whole_length: bool) -> bool:
        """Takes the folder's lock, waiting for whoever holds it; True if the run is finished already.

        fresh: what is there is put aside. whole_length: a run that ended when it had reached the published score is not
        finished. An earlier run of other settings or other code is put aside, or, with `resume_changed`, one of other
        code gone on with. The outputs of a finished run are written again.
        """
        self._lock_it()
        self._finish_putting_aside()
        if fresh:
            self._put_aside("--fresh was given")
        done = self._read_done()
        if done is not None and done["key"] == self.key:
            if done.get("stopped") != "reached" or not whole_length:
                self.write_outputs()
                self.clean_up()
                return True
            why = "the earlier run ended when it had reached the published score, and now the whole length is asked for"
            self._put_aside(why)
        found = ({done["key"]} if done else set()) | self.checkpoints.keys()
        same_settings = {key for key in found if key.startswith(self.settings_key)}
        if found and self.key not in found:
            old = sorted(same_settings or found)[0]
            what = "code, packages (uv.lock) or ROM" if same_settings else "settings"
            if same_settings and resume_changed:
                self.checkpoints.also = same_settings
                self.notes.append(f"resumed on purpose although {what} changed (key {old}, now {self.key})")
                say(self.notes[-1])
            else:
                fix = "; --resume-changed goes on from a checkpoint all the same" if same_settings else ""
                self._put_aside(f"{what} changed since (key {old}, now {self.key}){fix}")
        return False

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
