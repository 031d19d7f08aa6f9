"""Errors in params.yaml and its parameters: the line or key, what was found, and what is allowed."""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from mlimages.core.errors import UserError

RENAMED = {
    "train.exchange": "train.all_reduce_dtype",
    "train.accumulate": "train.gradient_accumulation",
    "train.local_steps": "train.local_sgd_steps",
    "train.average_decay": "train.ema_decay",
    "train.second_momentum": "train.beta_2",
    "train.decay": "train.schedule",
    "train.decay_at": "train.step_boundaries",
    "train.rotate_and_recolour": "train.rotate_and_color_jitter",
    "train.focusing": "train.focal_gamma",
    "train.positive_share": "train.focal_alpha",
    "train.negative_focusing": "train.asymmetric_gamma_negative",
    "train.probability_margin": "train.asymmetric_margin",
    "machine.collective": "machine.all_reduce",
    "machine.pack_mib": "machine.all_reduce_pack_mib",
}


def read_yaml(path: str | Path) -> Any:
    """The content of a file, read as DVC reads it; UserError for a missing, damaged or unsafe one."""
    try:
        return YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run in the repository's folder, or `git checkout {path}`") from None
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line} is not plain YAML: {error.problem}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None


def checked(kind: Any, content: Any, source: str, prefix: str, expected: Iterable[str]) -> Any:
    """`content` as the dataclass `kind`; UserError, a line for each value that it does not allow."""
    if not isinstance(content, Mapping):
        raise UserError(f"{source} holds {type(content).__name__}, expected the sections {', '.join(expected)}")
    try:
        # Only from JSON does pydantic build nested dataclasses and still refuse "1" for 1.
        return TypeAdapter(kind).validate_json(json.dumps(content, default=str))
    except ValidationError as errors:
        problems = [(prefix + ".".join(map(str, error["loc"])), error) for error in errors.errors()]
        renamed = {RENAMED[key] for key, _ in problems if key in RENAMED}
        lines = [_explain(kind, prefix, error) for key, error in problems if key not in renamed]
        raise UserError("\n".join(f"{source}: {line}" for line in lines)) from None


def _explain(kind: Any, prefix: str, error: Any) -> str:
    """One line on one wrong value: its key, what was found, what is allowed."""
    location = [str(part) for part in error["loc"]]
    key = prefix + ".".join(location)
    if error["type"] == "unexpected_keyword_argument" and key in RENAMED:
        return f"`{key}` is now called `{RENAMED[key]}`; rename it there"
    if error["type"] == "unexpected_keyword_argument":
        return f"unknown key `{key}` ({error['input']!r}); the nearest known is `{_nearest(kind, prefix, key)}`"
    if error["type"] == "value_error":
        return f"`{key or prefix.rstrip('.')}`: {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"`{key}` is missing; allowed: {_allowed(kind, location)}"
    return f"`{key}` is {error['input']!r}: {error['msg'].lower()}; allowed: {_allowed(kind, location)}"


def _nearest(kind: Any, prefix: str, key: str) -> str:
    known = [prefix + name for name in _names(kind)]
    leaf = key.rsplit(".", 1)[-1]
    return max(known, key=lambda name: (difflib.SequenceMatcher(None, name, key).ratio()
                                        + difflib.SequenceMatcher(None, name.rsplit(".", 1)[-1], leaf).ratio()))


def _names(kind: Any, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(kind):
        names.append(prefix + field.name)
        if dataclasses.is_dataclass(field.type):
            names += _names(field.type, f"{prefix}{field.name}.")
    return names


def _allowed(kind: Any, location: list[str]) -> str:
    """What the schema says of a key, such as "number, > 0, <= 100"."""
    for name in location:
        fields = {field.name: field for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
        if name not in fields:
            break
        kind = fields[name].type
    if dataclasses.is_dataclass(kind):
        return f"a section with the keys {', '.join(field.name for field in dataclasses.fields(kind))}"
    return _describe(TypeAdapter(kind, config=None).json_schema())


def _describe(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_describe(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<=",
              "minLength": "length >=", "minItems": "items >=", "maxItems": "items <="}
    parts = [schema["type"]] + [f"{sign} {schema[key]}" for key, sign in bounds.items() if key in schema]
    if "items" in schema:
        parts.append(f"each {_describe(schema['items'])}")
    return ", ".join(parts)
