"""ICC profiles of known colour spaces, and the conversion of their colours to sRGB by formulas."""

import struct
from typing import NamedTuple

import numpy as np

# Columns: red, green and blue in XYZ under D50.
SRGB = np.array([[0.43607, 0.38506, 0.14308], [0.22250, 0.71688, 0.06062], [0.01393, 0.09710, 0.71417]])
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24119, 0.69224, 0.06657], [-0.00105, 0.04188, 0.78407]])
ADOBE = np.array([[0.60976, 0.20524, 0.14922], [0.31112, 0.62566, 0.06322], [0.01948, 0.06089, 0.74484]])
PROPHOTO = np.array([[0.79767, 0.13519, 0.03135], [0.28804, 0.71187, 0.00009], [0.0, 0.0, 0.82521]])
D50 = (0.9642, 1.0, 0.8249)


class Space(NamedTuple):
    """A colour space: its primaries and its gamma. 0 means sRGB's curve."""

    primaries: np.ndarray
    gamma: float


SPACES = {"Display P3": Space(P3, 0.0), "AdobeRGB": Space(ADOBE, 563 / 256), "ProPhoto": Space(PROPHOTO, 1.8)}


def linear(levels: np.ndarray, gamma: float) -> np.ndarray:
    """Convert levels, 0 to 255, to linear light, 0 to 1."""
    share = levels / 255
    return share**gamma if gamma else np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055)**2.4)


def in_srgb(levels: np.ndarray, space: Space) -> np.ndarray:
    """Convert levels [..., 3] of a space to sRGB, clipped to its gamut."""
    light = np.clip(linear(levels, space.gamma) @ (np.linalg.inv(SRGB) @ space.primaries).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light**(1 / 2.4) - 0.055)


def profile(space: Space) -> bytes:
    """The ICC profile, version 2, of an RGB space."""
    if space.gamma:
        curve = b"curv" + struct.pack(">IIH", 0, 1, round(space.gamma * 256))
    else:
        table = np.round(65535 * linear(np.linspace(0, 255, 1024), 0)).astype(">u2")
        curve = b"curv" + struct.pack(">II", 0, len(table)) + table.tobytes()
    tags = {f"{name}TRC": curve for name in "rgb"}
    tags |= {f"{name}XYZ": _xyz(space.primaries[:, column]) for column, name in enumerate("rgb")}
    return icc(b"RGB ", {**tags, "wtpt": _xyz(D50)})


def grey_profile(gamma: float) -> bytes:
    """The ICC profile of a grey space."""
    return icc(b"GRAY", {"kTRC": b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)), "wtpt": _xyz(D50)})


def icc(space: bytes, tags: dict[str, bytes]) -> bytes:
    content, table = b"", b""
    first = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        content += bytes(-len(content) % 4)
        table += name.encode() + struct.pack(">II", first + len(content), len(data))
        content += data
    size = first + len(content)
    head = struct.pack(">I4sI4s4s4s12x4s", size, b"test", 0x02400000, b"mntr", space, b"XYZ ", b"acsp").ljust(68, b"\0")
    illuminant = struct.pack(">3i", *(round(value * 65536) for value in D50))
    return (head + illuminant).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def _xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))
