"""A paper's constants: each with unit and source, and a value for each kind of task where the paper prints several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.papers.model import Constant
from common.papers.units import convert

NEEDED = ("paper", "unit", "source")


def constants_by_kind(
    items: Sequence[Mapping], kinds: Iterable[str], data: Mapping, file: Path
) -> dict[str, tuple[Constant, ...]]:
    """kind of task -> the constants that concern it, with that kind's values.

    items: as paper.yaml has them; paper, unit, source, ours, reason and note are one value or a mapping `kind: value`.
    """
    found = {}
    for kind in kinds:
        concerned = [item for item in items if kind in item.get("kinds", (kind,))]
        found[kind] = tuple(_constant(_of_kind(item, kind, file), kind, data, file) for item in concerned)
    return found


def _of_kind(item: Mapping, kind: str, file: Path) -> dict[str, Any]:
    """`item` with the values of one kind; `per_kind` says whether its paper value is one of several."""
    own = {}
    for key, value in item.items():
        if not isinstance(value, Mapping):
            own[key] = value
        elif kind in value:
            own[key] = value[kind]
        elif key in NEEDED:
            raise UserError(
                f"{file}: constant {item['name']!r}: {key} says nothing for tasks of kind {kind}, which the paper has; "
                f"add `{kind}: ...`, or name the kinds it concerns, `kinds: [{', '.join(value)}]`"
            )
    return {**own, "per_kind": isinstance(item["paper"], Mapping)}


def _constant(item: Mapping, kind: str, data: Mapping, file: Path) -> Constant:
    where = f"{file}: constant {item['name']!r}"
    unit, field_unit = item["unit"], item.get("field_unit", item["unit"])
    expected = item["paper"]
    if field_unit != unit and expected is not None:
        # one value for all kinds is that of the emulator; outside of it a frame is an agent step
        per_step = 1 if item["per_kind"] and kind != "atari" else data["frames_per_agent_step"]
        try:
            expected = convert(
                expected, unit, field_unit, frames_per_agent_step=per_step,
                agent_steps_per_update=data.get("agent_steps_per_update"),
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: field_unit {field_unit!r}: {error}") from None
    ours = item.get("ours", expected)
    if "ours" in item and ours != expected and "reason" not in item:
        raise UserError(f"{where}: ours {ours!r} is not the paper's {expected!r} {field_unit}; add a reason")
    if expected is None and item["field"] and "ours" not in item:
        raise UserError(f"{where}: the paper does not say (paper: null), so `ours` and a `reason` are needed")
    return Constant(
        item["name"], item["field"], item["paper"], unit, item["source"], ours, field_unit, expected,
        item.get("reason"), item.get("note"),
    )  # fmt: skip
