"""One serialized record, read as strictly as can be."""

import math
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
    indices: list[int]
    confidence: list[float]


def read_example(serialized: bytes, classes: int) -> Example:
    """The record; ValueError says what is wrong with what there is to take of it.

    It is read for every image of a training, mostly with cold caches: the less is touched, the better.
    """
    features = _features(serialized)
    if "image" in features:
        one = _dense(features, classes)
    else:
        jpeg, key = features["image/encoded"].bytes_list.value, features["image/key"].bytes_list.value
        indices, confidence = features["label/index"].int64_list.value, features["label/confidence"].float_list.value
        if len(jpeg) != 1 or len(key) != 1 or not indices or not confidence:
            _check_schema(_features(serialized))
        one = Example(jpeg[0], key[0], [*indices], [*confidence])
    _check_labels(one.indices, one.confidence, classes)
    return one


def check_example(serialized: bytes, classes: int) -> None:
    """ValueError where anything in the record is not as its schema says."""
    _check_schema(_features(serialized))
    read_example(serialized, classes)


def _features(serialized: bytes) -> Any:
    try:
        return tf.train.Example.FromString(serialized).features.feature
    except DecodeError:
        raise ValueError("it is no tf.train.Example") from None


def _dense(features: Any, classes: int) -> Example:
    found = _check_schema(features)
    [label] = found["label"]
    if len(label) != 4 * classes:
        raise ValueError(f"its label has {len(label)} bytes, expected 4 for each of {classes} classes")
    all_of_them = np.frombuffer(label, "<f4")
    index = np.flatnonzero(all_of_them)
    return Example(found["image"][0], found["name"][0], index.tolist(), all_of_them[index].tolist())


def _check_schema(features: Any) -> dict[str, Any]:
    """The values of all features of the record's schema; ValueError where one is missing, or of another kind."""
    schema = SCHEMAS["dense" if "image" in features else "sparse"]
    return {name: _values(features, name, kind) for name, kind in schema.items()}


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


def _check_labels(indices: list[int], confidences: list[float], classes: int) -> None:
    if (len(indices) == len(confidences) > 0 and indices == sorted(set(indices)) and indices[0] >= 0
            and indices[-1] < classes and min(confidences) >= 0 and max(confidences) <= 1 and sum(confidences) >= 0):
        return  # the sum of what is not a number is none
    if len(indices) != len(confidences):
        raise ValueError(f"it has {len(indices)} classes and {len(confidences)} confidences")
    if any(one >= other for one, other in zip(indices, indices[1:], strict=False)):
        raise ValueError(f"its classes {indices} are not ascending")
    if outside := [index for index in indices if not 0 <= index < classes]:
        raise ValueError(f"its class {outside[0]} is not one of {classes}")
    if wrong := [value for value in confidences if not (0 <= value <= 1 or value == UNKNOWN) or math.isnan(value)]:
        raise ValueError(f"its confidence {wrong[0]} is not from 0 to 1")
