"""YAML read strictly and checked against a JSON schema, with messages a person can act on."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from common.errors import UserError, suggestion

SCHEMAS = Path(__file__).resolve().parent / "schemas"
MAX_DEPTH, MAX_NODES = 50, 200_000  # of a YAML file; a paper's has some 2,000 nodes


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Safe YAML, but `1e-4` is a number (YAML 1.1: text) and a key given twice is an error (YAML takes the last)."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key) if isinstance(key, str | int | float | bool) else None
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(path: Path) -> Any:
    """UserError for a missing, unreadable or malformed file, with the line."""
    try:
        text = path.read_text(encoding="utf-8")
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: the file is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def _check_size(text: str) -> None:
    """Refuses nesting that would overflow the parser's stack, and aliases that stand for more than anybody would write."""
    sizes: dict[str, int] = {}
    inside: list[tuple[str | None, int]] = [
        (None, 0)
    ]  # anchor and nodes so far of each collection around here
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            inside.append((event.anchor, 1))
            if len(inside) > MAX_DEPTH:
                raise yaml.constructor.ConstructorError(
                    None, None, f"more than {MAX_DEPTH} levels", event.start_mark
                )
            continue
        if isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            anchor, size = inside.pop()
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(event.anchor, MAX_NODES + 1)  # unknown as yet: it holds itself
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        inside[-1] = (inside[-1][0], inside[-1][1] + size)
        if inside[-1][1] > MAX_NODES:
            what = "an alias stands for itself, or for too much"
            raise yaml.constructor.ConstructorError(None, None, what, event.start_mark)


@lru_cache
def _validator(schema: str) -> Draft202012Validator:
    content = load_yaml(SCHEMAS / schema)
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content)


def _most_telling(errors: list[ValidationError]) -> ValidationError:
    """Inside "any of these forms" the form that came furthest says most."""
    error = max(errors, key=lambda e: (e.validator == "additionalProperties", -len(e.absolute_path)))
    while error.context:
        branches: dict[Any, list[ValidationError]] = {}
        for sub in error.context:
            branches.setdefault(sub.schema_path[0], []).append(sub)
        right_type = [
            b for b in branches.values() if all(e.validator not in ("type", "const") or e.path for e in b)
        ]
        if not right_type:
            return error
        error = _most_telling(min(right_type, key=len))
    return error


def _short(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


TYPES = {"integer": "a whole number", "number": "a number", "string": "text", "object": "a mapping",
         "array": "a list", "boolean": "true or false", "null": "null"}  # fmt: skip


def _describe(error: ValidationError) -> str:
    """What is wrong, what is allowed."""
    value, limit, schema = error.instance, error.validator_value, error.schema
    match error.validator:
        case "additionalProperties":
            known = list(schema.get("properties", {}))
            unknown = [key for key in value if key not in known]
            return f"unknown key {str(unknown[0])!r}{suggestion(unknown[0], known, shown=30)}"
        case "required":
            missing = next(key for key in limit if key not in value)
            meaning = schema.get("properties", {}).get(missing, {}).get("description")
            return f"key {missing!r} is missing" + (f" ({meaning})" if meaning else "")
        case "enum":
            return f"{_short(value)} is not allowed{suggestion(value, [v for v in limit if v is not None], shown=30)}"
        case "type":
            kinds = [limit] if isinstance(limit, str) else limit
            return f"{_short(value)} is not {' or '.join(TYPES[kind] for kind in kinds)}"
        case "minimum":
            return f"{_short(value)} is too small; at least {limit}"
        case "exclusiveMinimum":
            return f"{_short(value)} is too small; more than {limit}"
        case "maximum":
            return f"{_short(value)} is too large; at most {limit}"
        case "pattern":
            return f"{_short(value)} does not match {limit}"
        case "minLength" | "minItems" | "minProperties":
            return "is empty"
        case "propertyNames":
            return f"{_short(value)} is not a valid name; {limit}"
        case "anyOf" | "oneOf":
            return f"{_short(value)} is not allowed; {schema.get('description', 'see the schema')}"
    return error.message[:200]


def _fill_defaults(data: Any, schema: dict) -> None:
    if isinstance(data, dict):
        for key, sub in schema.get("properties", {}).items():
            if "default" in sub:
                data.setdefault(key, sub["default"])


def validate(data: Any, schema: str, where: str) -> Any:
    """`data` checked against `common/schemas/{schema}`, its defaults filled in. UserError naming `where` and key."""
    validator = _validator(schema)
    errors = list(validator.iter_errors(data))
    if errors:
        error = _most_telling(errors)
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path).lstrip(".")
        hint = error.schema.get("description", "") if isinstance(error.schema, dict) else ""
        if hint and error.validator in (
            "type",
            "minimum",
            "exclusiveMinimum",
            "pattern",
            "minLength",
            "minItems",
        ):
            hint = f" ({hint})"
        else:
            hint = ""
        raise UserError(f"{where}: {path + ': ' if path else ''}{_describe(error)}{hint}")
    _fill_defaults(data, validator.schema)
    return data
