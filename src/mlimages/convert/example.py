"""Read and check one serialized record."""

import math
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from mlimages.convert.example_message import ExampleMessage

SCHEMAS = {
    "sparse": {"image/encoded": "bytes", "image/format": "bytes", "image/width": "int64", "image/height": "int64",
               "image/filename": "bytes", "image/key": "bytes", "label/index": "int64", "label/confidence": "float"},
    "dense": {"image": "bytes", "width": "int64", "height": "int64", "name": "bytes", "label": "bytes"},
}
LISTS = {"label/index", "label/confidence"}  # the other features have exactly one value
UNKNOWN = -1.0  # a confidence that the loss ignores


class Example(NamedTuple):
    """A record of either schema: its JPEG, its key, its classes in ascending order, and the confidence of each.

    The key of a dense record is its name, an ImageNet id or a URL. Its classes are those with a nonzero confidence.
    """

    jpeg: bytes
    key: bytes
    indices: list[int]
    confidence: list[float]


def read_example(serialized: bytes, classes: int) -> Example:
    """Parse a record. Raises ValueError if a value that `Example` holds is wrong.

    Training calls this for every image, so it reads no other features.
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
    """Raise ValueError if any feature of the record violates its schema."""
    _check_schema(_features(serialized))
    read_example(serialized, classes)


def _features(serialized: bytes) -> Any:
    try:
        return ExampleMessage.FromString(serialized).features.feature
    except DecodeError:
        raise ValueError("it is not a tf.train.Example") from None


def _dense(features: Any, classes: int) -> Example:
    found = _check_schema(features)
    [label] = found["label"]
    if len(label) != 4 * classes:
        raise ValueError(f"its label has {len(label)} bytes, expected 4 for each of {classes} classes")
    confidences = np.frombuffer(label, "<f4")
    indices = np.flatnonzero(confidences)
    return Example(found["image"][0], found["name"][0], indices.tolist(), confidences[indices].tolist())


def _check_schema(features: Any) -> dict[str, Any]:
    """The values of all features of the record's schema. Raises ValueError if one is missing or has another type."""
    schema = SCHEMAS["dense" if "image" in features else "sparse"]
    return {name: _values(features, name, kind) for name, kind in schema.items()}


def _values(features: Any, name: str, kind: str) -> Any:
    """The values of a feature. Raises ValueError if its type is not `kind`."""
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
        return  # a NaN makes the sum NaN, which fails the comparison
    if len(indices) != len(confidences):
        raise ValueError(f"it has {len(indices)} classes and {len(confidences)} confidences")
    if any(one >= other for one, other in zip(indices, indices[1:], strict=False)):
        raise ValueError(f"its classes {indices} are not ascending")
    if outside := [index for index in indices if not 0 <= index < classes]:
        raise ValueError(f"its class {outside[0]} is not one of {classes}")
    if wrong := [value for value in confidences if not (0 <= value <= 1 or value == UNKNOWN) or math.isnan(value)]:
        raise ValueError(f"its confidence {wrong[0]} is not from 0 to 1")
