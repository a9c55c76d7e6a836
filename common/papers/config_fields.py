"""The settings a training script takes, read from its source: importing it would import torch, 1.5 s for a dry run.

The script declares them as `class Config`, a frozen dataclass whose fields are int, float, bool, str or Literal[...]
(or one of these `| None`), each with a constant default such as `1_000_000`, `32**2` or `0.01 / 32`.
"""

from __future__ import annotations

import ast
import operator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError, suggestion

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
              ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow}  # fmt: skip
_TYPES = {"int": int, "float": float, "bool": bool, "str": str}


class Field(NamedTuple):
    """One setting: its annotation as written, and its default."""

    type: str
    default: Any


def _constant(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in names:
            return names[node.id]
        case ast.UnaryOp(op=ast.USub()):
            return -_constant(node.operand, names)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            left, right = _constant(node.left, names), _constant(node.right, names)
            if isinstance(node.op, ast.Pow) and abs(right) > 64:
                raise ValueError("exponent above 64")
            return _OPERATORS[type(node.op)](left, right)
    raise ValueError(f"{ast.unparse(node)} is not a constant")


def config_fields(script: Path) -> dict[str, Field]:
    """Every field of the script's `class Config`, in order. UserError when there is none, or one is not as above."""
    try:
        return _read(script, script.stat().st_mtime_ns)
    except FileNotFoundError:
        raise UserError(f"{script}: the file is missing") from None


def must_call_main(script: Path) -> None:
    """UserError for a script that would end at once and leave nothing: it calls no main() when it is run."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    run = [n for node in tree.body if isinstance(node, ast.Expr | ast.If) for n in ast.walk(node)]
    calls = {getattr(n.func, "id", getattr(n.func, "attr", "")) for n in run if isinstance(n, ast.Call)}
    if "main" not in calls:
        raise UserError(
            f"{script} does not call main() at its end, so it would train nothing; docs/train_py.md says how it ends"
        )


@lru_cache(maxsize=256)
def _read(script: Path, mtime_ns: int) -> dict[str, Field]:
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{script}: not valid Python: {error}") from None
    names: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                names[node.targets[0].id] = _constant(node.value, names)
            except (ValueError, TypeError, ZeroDivisionError):
                continue  # not a number or text: not for a default
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            return {
                field.target.id: _field(script, field, names)
                for field in node.body
                if isinstance(field, ast.AnnAssign)
            }
    raise UserError(
        f"{script}: no `class Config` on the top level; declare the settings as a frozen dataclass"
    )


def _field(script: Path, node: ast.AnnAssign, names: dict[str, Any]) -> Field:
    where = f"{script}, line {node.lineno}: Config.{ast.unparse(node.target)}"
    try:
        kinds(ast.unparse(node.annotation))
    except ValueError as error:
        raise UserError(
            f"{where}: {error}; use int, float, bool, str, Literal[...], or one of these | None"
        ) from None
    if node.value is None:
        raise UserError(f"{where}: no default; write the paper's value")
    try:
        field = Field(ast.unparse(node.annotation), _constant(node.value, names))
        return Field(field.type, check_value(field, field.default))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"{where}: {error}; write a constant of type {ast.unparse(node.annotation)}"
        ) from None


@lru_cache(maxsize=256)
def kinds(annotation: str) -> tuple[tuple[type, ...], tuple[Any, ...]]:
    """(types, literal values) that an annotation allows; None is type(None). ValueError for anything else."""
    types: list[type] = []
    choices: list[Any] = []

    def walk(node: ast.expr) -> None:
        match node:
            case ast.BinOp(op=ast.BitOr()):
                walk(node.left)
                walk(node.right)
            case ast.Constant(value=None):
                types.append(type(None))
            case ast.Name(id=name) if name in _TYPES:
                types.append(_TYPES[name])
            case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
                choices.extend(
                    ast.literal_eval(e) for e in (inner.elts if isinstance(inner, ast.Tuple) else [inner])
                )
            case _:
                raise ValueError(f"type {annotation!r} is not supported")

    walk(ast.parse(annotation, mode="eval").body)
    return tuple(types), tuple(choices)


def check_value(field: Field, value: Any) -> Any:
    """`value` as the field's type: an int becomes a float where a float is asked for, and nothing else is converted.

    Raises ValueError that says what is allowed.
    """
    types, choices = kinds(field.type)
    if type(value) in types or any(type(value) is type(choice) and value == choice for choice in choices):
        if isinstance(value, float) and value != value:
            raise ValueError("nan is not a number")
        return value
    if float in types and type(value) is int:
        return float(value)
    if choices:
        raise ValueError(f"{value!r} is not allowed{suggestion(value, choices)}")
    raise ValueError(f"{value!r} is of type {type(value).__name__}, not {field.type}")
