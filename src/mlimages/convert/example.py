"""One serialized record, read as strictly as can be."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

SCHEMAS = {
    "sparse": {"image/encoded": "bytes", "image/format": "bytes", "image/width": "int64", "image/height": "int64",
               "image/filename": "bytes", "image/key": "bytes", "label/index": "int64", "label/confidence": "float"},
    "dense": {"image": "bytes", "width": "int64", "height": "int64", "name": "bytes", "label": "bytes"},
}
LISTS = {"label/index", "label/confidence"}  # all other features have one value
UNKNOWN = -1.0  # a confidence that training leaves out


class Example(NamedTuple):
    """A record of either schema: its JPEG, its key, and its labels, `indices` and `confidence`, one for each.

    A dense record has no key: its name, the ImageNet id or the URL, stands for it; its labels are those that are not 0.
    """

    jpeg: bytes
    key: bytes
    indices: Sequence[int]
    confidence: Sequence[float]


def read_example(serialized: bytes, classes: int) -> Example:
    """The record; ValueError says what is wrong with it."""
    try:
        features = tf.train.Example.FromString(serialized).features.feature
    except DecodeError:
        raise ValueError("it is no tf.train.Example") from None
    dense = "image" in features
    found = {name: _values(features, name, kind) for name, kind in SCHEMAS["dense" if dense else "sparse"].items()}
    if dense:
        [label] = found["label"]
        if len(label) != 4 * classes:
            raise ValueError(f"its label has {len(label)} bytes, expected 4 for each of {classes} classes")
        all_of_them = np.frombuffer(label, "<f4")
        index = np.flatnonzero(all_of_them)
        one = Example(found["image"][0], found["name"][0], index.tolist(), all_of_them[index].tolist())
    else:
        one = Example(found["image/encoded"][0], found["image/key"][0], [*found["label/index"]],
                      [*found["label/confidence"]])
    _check_labels(one.indices, one.confidence, classes)
    return one


def _values(features: Any, name: str, kind: str) -> Any:
    """The values of a feature of this kind."""
    feature = features.get(name)
    if feature is None:
        raise ValueError(f"it has no feature {name}, only {', '.join(sorted(features)) or 'none'}")
    found = feature.WhichOneof("kind")
    if found != f"{kind}_list" and (found or name not in LISTS):
        raise ValueError(f"its feature {name} is {found}, expected {kind}_list")
    values = getattr(feature, f"{kind}_list").value
    if name not in LISTS and len(values) != 1:
        raise ValueError(f"its feature {name} has {len(values)} values, expected 1")
    return values


def _check_labels(indices: Sequence[int], confidences: Sequence[float], classes: int) -> None:
    if len(indices) != len(confidences):
        raise ValueError(f"it has {len(indices)} classes and {len(confidences)} confidences")
    if any(one >= other for one, other in zip(indices, indices[1:], strict=False)):
        raise ValueError(f"its classes {indices} are not ascending")
    if outside := [index for index in indices if not 0 <= index < classes]:
        raise ValueError(f"its class {outside[0]} is not one of {classes}")
    if wrong := [value for value in confidences if not (0 <= value <= 1 or value == UNKNOWN) or math.isnan(value)]:
        raise ValueError(f"its confidence {wrong[0]} is not from 0 to 1")
