"""Read the labels of a row: names and confidences, both as text. A later step finds wrong ones.

A label is written as `name:confidence`. Without a confidence it has 1. The confidence -1 means that it is not known
whether the image has the label.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from mlimages.acquire.formats import CONTROL

CACHED = 2**16  # different labels; tables have few
CERTAIN = "1"
WITH_CONFIDENCE = re.compile(r"(?P<name>.+):\s*(?P<confidence>-?[0-9][0-9.eE+-]*)", re.DOTALL)
TRUTHS = {"true": "1", "false": "0", "yes": "1", "no": "0", "t": "1", "f": "0"}


@lru_cache(CACHED)
def split_label(text: str) -> tuple[str, str]:
    """The name and the confidence of a label that may be written as `name:confidence`."""
    found = WITH_CONFIDENCE.fullmatch(text)
    return (found["name"], found["confidence"]) if found else (text, CERTAIN)


def split_last(text: str) -> tuple[str, str]:
    """The name and the confidence of a label that is written as `name:confidence`."""
    name, _, confidence = text.rpartition(":")
    return name, confidence


@lru_cache(CACHED)
def clean_name(text: str) -> str:
    """A name on one line, without white space at its ends and without control characters."""
    return " ".join(CONTROL.sub(" ", text).split())


def labels_of(value: str | None, confidence: str | None, separator: str | None) -> list[tuple[str, str]]:
    """The labels in the value of a row: JSON, or a text that is split at `separator` if there is one.

    `confidence` is the value of the column of that name: one number for all of them, or a JSON list of as many numbers.
    It is None if there is no such column: then a label may be written as `name:confidence`. A missing confidence is "".
    """
    items = _items(value, separator)
    if confidence is None:
        return [(name, given) if given else split_label(name) for name, given in items]
    numbers = _parsed(confidence)
    if not isinstance(numbers, list):
        return [(name, confidence) for name, _ in items]
    return [(name, _text(numbers[place]) if place < len(numbers) else "") for place, (name, _) in enumerate(items)]


def by_class(names: tuple[str, ...], values: tuple[str | None, ...]) -> Iterator[tuple[str, str]]:
    """Yield the labels of a row in which each class has a column of confidences. An empty value means 0."""
    for name, value in zip(names, values, strict=True):
        text = (value or "").strip()
        if text:
            yield name, TRUTHS.get(text.lower(), text)


def _items(value: str | None, separator: str | None) -> list[tuple[str, str]]:
    """The names, each with its confidence in JSON or ""."""
    text = (value or "").strip()
    parsed = _parsed(text)
    if isinstance(parsed, dict):
        return [(name, _text(number)) for name, number in parsed.items() if number is not None]
    if isinstance(parsed, list):
        return [(_text(one), "") for one in parsed if one is not None]
    return [(name.strip(), "") for name in (text.split(separator) if separator else [text]) if name.strip()]


def _parsed(text: str) -> dict[str, Any] | list[Any] | None:
    """The dictionary or the list in a text of JSON; None for another text."""
    try:
        return json.loads(text) if text.startswith(("[", "{")) else None
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return TRUTHS[str(value).lower()] if isinstance(value, bool) else str(value)
