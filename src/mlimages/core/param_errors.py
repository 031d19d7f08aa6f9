"""Errors in params.yaml and its parameters: the line or key, what was found, and what is expected."""

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

EXPECTED = "Input should be "  # how most messages of pydantic begin
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
    """Read a YAML file as DVC reads it. Raises UserError if it is missing, damaged or unsafe."""
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
    """Return `content` as the dataclass `kind`. Raises UserError with a line for each wrong value or key.

    `source` and `prefix` say where a value is: a file, and the section that its keys belong to.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{source} holds {type(content).__name__}, expected the sections {', '.join(expected)}")
    try:
        # In strict mode, pydantic builds nested dataclasses only from JSON.
        return TypeAdapter(kind).validate_json(json.dumps(content, default=str))
    except ValidationError as errors:
        problems = [(prefix + ".".join(map(str, error["loc"])), error) for error in errors.errors()]
        renamed = {RENAMED[key] for key, _ in problems if key in RENAMED}
        lines = [_explain(kind, prefix, error) for key, error in problems if key not in renamed]
        raise UserError("\n".join(f"{source}: {line}" for line in lines)) from None


def _explain(kind: Any, prefix: str, error: Any) -> str:
    """One line about one wrong value: its key, the value, and what is expected."""
    key = prefix + ".".join(map(str, error["loc"]))
    if error["type"] == "unexpected_keyword_argument" and key in RENAMED:
        return f"`{key}` is now called `{RENAMED[key]}`; rename it there"
    if error["type"] == "unexpected_keyword_argument":
        [nearest] = difflib.get_close_matches(key, [prefix + name for name in _names(kind)], n=1, cutoff=0)
        return f"unknown key `{key}` ({error['input']!r}); the nearest known is `{nearest}`"
    if error["type"] == "value_error":
        return f"`{key or prefix.rstrip('.')}`: {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"`{key}` is missing; add it, with a value that src/mlimages/core/params.py allows"
    if error["msg"].startswith(EXPECTED):
        return f"`{key}` is {error['input']!r}, expected {error['msg'].removeprefix(EXPECTED)}"
    return f"`{key}` is {error['input']!r}: {error['msg']}"


def _names(kind: Any, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(kind):
        names.append(prefix + field.name)
        if dataclasses.is_dataclass(field.type):
            names += _names(field.type, f"{prefix}{field.name}.")
    return names
