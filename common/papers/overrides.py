"""Settings that a user gives on top of a size: read from text, written as flags, and named in the size.

A run with such settings lies in a folder of its own: `hour` with a learning rate of 0.0001 is `hour-set-` and the first 8 hex
digits of the SHA-256 of {"learning_rate":0.0001}. So two sweeps never share a folder, and none passes for the paper.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from common.errors import UserError, suggestion
from common.papers.config_fields import Field, check_value, kinds

MARK = "-set-"
OVERRIDDEN_SIZE = r"(?:smoke|hour|day|paper|frames-[1-9][0-9]*)-set-[0-9a-f]{8}"
OVERRIDDEN = re.compile(r"(?P<base>.+)-set-[0-9a-f]{8}")


def budget_of(size: str) -> str:
    """`hour` of `hour` and of `hour-set-1a2b3c4d`."""
    found = OVERRIDDEN.fullmatch(size)
    return found["base"] if found else size


def is_overridden(size: str) -> bool:
    return OVERRIDDEN.fullmatch(size) is not None


def overridden_size(budget: str, overrides: Mapping[str, Any]) -> str:
    """The name of a size with these settings on top; the budget's own without any."""
    if not overrides:
        return budget
    text = json.dumps(dict(overrides), sort_keys=True, separators=(",", ":"))
    return f"{budget}{MARK}{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def settings_in(text: str | Mapping[str, Any]) -> dict[str, Any]:
    """{"learning_rate": "0.0001"} of "learning_rate=0.0001"; several stand with a comma or a space between them."""
    if isinstance(text, Mapping):
        return dict(text)
    found: dict[str, str] = {}
    for word in text.replace(",", " ").split():
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UserError(
                f"settings: {word!r} is no setting; write NAME=VALUE, several with a comma between: "
                'settings="learning_rate=0.0001,num_envs=4"'
            )
        found[name.strip().lstrip("-").replace("-", "_")] = value
    return found


def in_type(settings: Mapping[str, Any], fields: Mapping[str, Field], script: str) -> dict[str, Any]:
    """Each setting, text or value, as a value of its field. UserError for one that the script lacks or cannot take."""
    found = {}
    for name, value in settings.items():
        if name not in fields:
            raise UserError(f"settings: {script} has no setting {name!r}{suggestion(name, fields, shown=40)}")
        try:
            found[name] = from_text(fields[name], value) if isinstance(value, str) else value
            found[name] = check_value(fields[name], found[name])
        except ValueError as error:
            raise UserError(f"settings: {name}: {error}") from None
    return found


def from_text(field: Field, text: str) -> Any:
    """`text` as the first of the field's types that it can be; ValueError where there is none."""
    types, choices = kinds(field.type)
    for choice in choices:
        if str(choice) == text:
            return choice
    plain = text.lower()
    if type(None) in types and plain in ("none", "null"):
        return None
    if bool in types and plain in ("true", "false"):
        return plain == "true"
    for kind in (int, float):
        if kind in types:
            try:
                return kind(text) if kind is float or "e" not in plain else whole(text)
            except ValueError:
                continue
    if str in types or choices:
        return text
    raise ValueError(f"{text!r} is not of type {field.type}")


def whole(text: str) -> int:
    """1000000 of "1e6"."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text!r} is not a whole number")
    return int(number)


def as_flags(overrides: Mapping[str, Any]) -> list[str]:
    """What a script's command line says for them: `--learning-rate=0.0001`, `--no-replay`."""
    flags = []
    for name, value in sorted(overrides.items()):
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags.append(f"--{flag}={value}")
    return flags


def as_text(overrides: Mapping[str, Any]) -> str:
    """As `--config settings=` takes them: `learning_rate=0.0001,num_envs=4`."""
    return ",".join(f"{name}={value}" for name, value in sorted(overrides.items()))
