"""What config.yaml and `--config` say, checked and put into type."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from common.errors import UserError
from common.files import folder_named
from common.papers.validation import validate
from common.say import say_aside

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


def check_given(given: Mapping[str, Any]) -> None:
    """UserError where --config says two lengths; a line where it says what has no part in pages that train nothing."""
    given = {key: value for key, value in given.items() if value not in (None, "", "null", "none")}
    if "budget" in given and "frames" in given:
        raise UserError(
            f"budget={given['budget']} and frames={given['frames']} are two lengths; leave out one of them"
        )
    unused = [key for key in ("budget", "frames", "seeds", "fresh", "resume_changed") if key in given]
    if given.get("source", "own") != "own" and unused and "settings" not in given:
        say_aside(f"source={given['source']} trains nothing, so this is not used: {', '.join(unused)}")


def must_be_there(config: Mapping[str, Any]) -> None:
    """UserError where pages are asked for from a folder of results that does not exist."""
    results = config["results"]
    if config["source"] == "results" and results != "results" and not os.path.isdir(results):
        raise UserError(
            f"results: {results}: there is no such folder, and source=results trains nothing; name the folder of the runs"
        )


def asked_of_snakemake(arguments: list[str]) -> list[str]:
    """What may be targets on Snakemake's command line, which it does not tell a Snakefile: pages and bare words."""
    values = [b for a, b in pairwise(arguments) if a not in ("--report", "--report-after-run")]
    return [a for a in values if "=" not in a and not a.startswith("-")]
