"""Fingerprints of images. Copies of a file have the same content hash, and alike pictures similar perceptual hashes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from mlimages.core.publish import atomic_write
from mlimages.images.decode import ImageFile

# `content` is the start of the file's sha256. `perceptual` is the DCT hash of the picture, or 0 if it is not needed.
FINGERPRINT = np.dtype([("content", "<u8"), ("perceptual", "<u8"), ("key", "S32")])
SHORTER_SIDE = 64  # pixels, to which a picture is made smaller before it is hashed


def fingerprint(key: str, body: bytes, *, near: bool) -> tuple[int, int, bytes]:
    """The fingerprint of an image file, with its perceptual hash if `near`. Raises Undecodable if it is damaged."""
    content = int.from_bytes(hashlib.sha256(body).digest()[:8])
    return content, perceptual_hash(body) if near else 0, key.encode()


def perceptual_hash(body: bytes) -> int:
    """The 64 bits of imagehash.phash of the upright picture in sRGB. Raises Undecodable if it is damaged."""
    file = ImageFile(body)
    pixels = file.pixels(min(1.0, SHORTER_SIDE / min(file.size)))
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes())


def write_fingerprints(path: Path, rows: Sequence[tuple[int, int, bytes]]) -> None:
    """Write the fingerprints of a shard, in the order of its records."""
    with atomic_write(path) as file:
        np.save(file, np.array(rows, FINGERPRINT), allow_pickle=False)


def read_fingerprints(path: Path) -> np.ndarray:
    """The fingerprints of a shard, FINGERPRINT [records], mapped into memory."""
    return np.load(path, mmap_mode="r", allow_pickle=False)
