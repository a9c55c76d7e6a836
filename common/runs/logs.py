"""The logs of a run: their text in memory, which checkpoints hold, and a live copy on disk to look at."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = {
    "curve.csv": (
        "agent_steps", "frames", "updates", "episodes", "epsilon", "eval_score", "eval_episodes", "train_score_100",
        "loss", "mean_max_q", "learning_rate",
    ),
    "episodes.csv": ("episode", "agent_steps", "frames", "score", "length"),
    "timing.csv": ("agent_steps", "seconds", "steps_per_second"),
}  # fmt: skip


class Logs:
    """columns: by file name. live: the folder of the copies."""

    def __init__(self, live: Path, more: tuple[str, ...] = ()):
        self.columns = COLUMNS | {"curve.csv": COLUMNS["curve.csv"] + more}
        self.live = live
        self.texts = {name: bytearray(",".join(head) + "\n", "utf-8") for name, head in self.columns.items()}
        self._files: dict[str, Any] = {}

    def open(self, texts: Mapping[str, bytes] | None = None) -> None:
        """Opens the live copies, cut back to what a checkpoint knows (`texts`)."""
        for name in self.texts:
            if texts is not None:
                self.texts[name] = bytearray(texts[name])
            (self.live / name).write_bytes(self.texts[name])
            self._files[name] = open(self.live / name, "ab", buffering=0)  # noqa: SIM115 (see `close`)

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """A row; a column that it does not have stays empty."""
        line = (",".join(str(plain(row.get(column))) for column in self.columns[name]) + "\n").encode()
        self.texts[name] += line
        with contextlib.suppress(
            OSError
        ):  # a full disk must not stop a run; the checkpoint has the log as well
            self._files[name].write(line)

    def rows(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.texts[name].decode())))

    def as_bytes(self) -> dict[str, bytes]:
        return {name: bytes(text) for name, text in self.texts.items()}

    def close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # what a full disk has no room for
                file.close()


def plain(value: Any) -> Any:
    """A number as the logs print it: integers without a point, floats to nine significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else float(f"{float(value):.9g}")
    return value
