"""Files that are whole or not there: written under a temporary name, flushed to the disk, renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


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
