"""The published scores: tables as CSV beside a `paper.yaml`, read and checked."""

from __future__ import annotations

import csv
import math
from functools import lru_cache
from pathlib import Path

from common.errors import UserError, suggestion
from common.papers.model import Row


@lru_cache(maxsize=64)
def _table(path: Path, mtime_ns: int) -> list[Row]:
    needed = ("game", "metric", "value", "stdev", "protocol")
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in needed if name not in (reader.fieldnames or [])]
            if missing:
                raise UserError(
                    f"{path}, line 1: column {missing[0]!r} is missing; the columns are {', '.join(needed)}"
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(
                        f"{where}: {len(reader.fieldnames)} cells are needed; quote a cell that has a comma in it"
                    )
                numbers = {}
                for name in ("value", "stdev"):
                    try:
                        numbers[name] = float(row[name]) if row[name].strip() or name == "value" else None
                    except ValueError:
                        raise UserError(f"{where}: {name} {row[name]!r} is not a number") from None
                    if numbers[name] is not None and not math.isfinite(numbers[name]):
                        raise UserError(f"{where}: {name} {row[name]!r} is not a finite number")
                rows.append(
                    Row(path.name, row["game"], row["metric"], row["protocol"], numbers["value"], numbers["stdev"],
                        row.get("source", ""), reader.line_num)
                )  # fmt: skip
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    return rows


def find_row(path: Path, game: str, metric: str, protocol: str | None = None) -> Row:
    """The one row of a published table. UserError when the file is missing or malformed, or no row or several fit."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: the file is missing; it holds the published scores")
    rows = _table(path, path.stat().st_mtime_ns)
    found = [
        row for row in rows if row.game == game and row.metric == metric and protocol in (None, row.protocol)
    ]
    if len(found) == 1:
        return found[0]
    wanted = f"game {game!r}, metric {metric!r}" + (f", protocol {protocol!r}" if protocol else "")
    if found:
        protocols = sorted({row.protocol for row in found})
        fix = f"name one protocol of {', '.join(protocols)}" if len(protocols) > 1 else "keep one of them"
        raise UserError(
            f"{path}: several rows have {wanted} (lines {', '.join(str(r.line) for r in found)}); {fix}"
        )
    for name, value in (("game", game), ("metric", metric), ("protocol", protocol)):
        known = sorted({getattr(row, name) for row in rows})
        if value is not None and value not in known:
            raise UserError(
                f"{path}: no row has {wanted}: unknown {name} {value!r}{suggestion(value, known)}"
            )
    raise UserError(f"{path}: no row has {wanted}; add it, or say `none` with a reason in paper.yaml")
