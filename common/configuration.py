"""What config.yaml and `--config` say, checked and put into type."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from common.files import folder_named
from common.papers.validation import validate

PAGE, SUFFIX = "reports/", ".html"
MAY_BE_NULL = ("frames", "settings", "checkpoints", "longest_job", "partition_cpu", "partition_gpu")


def checked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with defaults filled in. The command line's text and numbers are put into type first."""
    given = dict(config)
    for key in ("frames", "seeds"):
        given[key] = _whole(given.get(key))
    for key in MAY_BE_NULL:
        if given.get(key) in ("null", "none", ""):
            given[key] = None
    if isinstance(given.get("targets"), str):
        given["targets"] = given["targets"].replace(",", " ").split()
    if isinstance(given.get("targets"), list):
        given["targets"] = [
            bare(target) if isinstance(target, str) else target for target in given["targets"]
        ]
    if type(given.get("results")) is int:
        given["results"] = str(given["results"])  # a folder called 2024
    for key in ("fresh", "resume_changed"):
        if str(given.get(key)).lower() in ("true", "false"):
            given[key] = str(given[key]).lower() == "true"
    for key in ("results", "checkpoints"):
        if isinstance(given.get(key), str) and given[key]:
            given[key] = folder_named(given[key], key)
    given = {key: value for key, value in given.items() if value is not None or key in MAY_BE_NULL}
    return validate(given, "config.schema.yaml", "config.yaml or --config")


def _whole(value: Any) -> Any:
    """2000000 for "2000000", "2_000_000", 2e6 and "2e6" (YAML reads that as text); anything else as it came."""
    if isinstance(value, str | float):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else value
    return value


def bare(target: str) -> str:
    """ "reports/dqn_pong.html" -> "dqn_pong"."""
    return os.path.normpath(target).removeprefix(PAGE).removesuffix(SUFFIX)
