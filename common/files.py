"""Files that are whole or not there: written under a temporary name, flushed to the disk, renamed. Folders as a user names them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import UserError


def write_file(path: Path, content: bytes) -> None:
    """Writes and flushes a file under a temporary name, then renames it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_file(path, (json.dumps(value, indent=1) + "\n").encode())


def fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_named(text: str, what: str) -> str:
    """A folder as it was meant: `~`, `~name` and `$VARIABLE` are replaced, and nothing is left like `results/` or `./results`.

    UserError, which names `what` was asked for, where a variable or a user's home is not known.
    """
    named = os.path.expanduser(os.path.expandvars(text))
    unknown = re.search(r"\$(\w+|\{\w*\})", named)
    if unknown:
        raise UserError(
            f"{what}: {text}: the variable {unknown[0]} is not set; set it (export), or write the folder out"
        )
    if named.startswith("~"):
        raise UserError(
            f"{what}: {text}: no home is known for {named.split(os.sep)[0]}; write the folder out"
        )
    return os.path.normpath(named)


def must_be_writable(what: str, folder: Path) -> None:
    """UserError if a folder is not one's own to write, by the nearest part of its path that exists; leaves nothing there."""
    existing = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    if not existing.is_dir():
        raise UserError(f"{what}: {folder}: {existing} is a file, not a folder; choose another")
    try:
        with tempfile.TemporaryDirectory(
            dir=existing
        ):  # /proc and its like give permission, and make no folder
            pass
    except OSError as problem:
        raise UserError(
            f"{what}: {folder} cannot be written ({existing}: {problem.strerror}); choose another: --config {what}=FOLDER"
        ) from None


def must_be_ones_own(clone: Path) -> None:
    """UserError where a repository is somebody else's: notes, logs and pages of the workflow are written into it."""
    for name in (".snakemake", "logs", "reports"):
        part = clone / name if (clone / name).exists() else clone
        if not os.access(part, os.W_OK | os.X_OK):
            raise UserError(
                f"{part.absolute()} cannot be written by you, and the workflow's notes, logs and pages go there: make a clone of "
                f"your own, git clone {clone.absolute()}"
            )


@cache
def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(files: Iterable[Path], more: str = "") -> str:
    """Of the content of files, wherever they lie, and of a further text; each file is read once."""
    lines = sorted(f"{path.name} {_digest_of(path)}" for path in files)
    return hashlib.sha256("\n".join([*lines, more]).encode()).hexdigest()[:12]
