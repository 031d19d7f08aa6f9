"""Colours of a profile as sRGB, which is what pictures without a profile are taken for."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 2**22  # no profile that is in use is larger
SAME = 2  # levels by which a profile may differ from sRGB and still be called so: the rounding of its numbers
PROBE_SHADES = 9  # of each channel
REMEMBERED = 32  # profiles; most pictures have one of a few


def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether there is nothing to convert in a picture of that mode, RGB or L: also where the profile is unusable."""
    return _transform(profile, mode) is None


def to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """uint8 [rows, columns, 1 or 3] in the colours of `profile` as the same in sRGB."""
    grey = pixels.shape[2] == 1
    transform = _transform(profile, "L" if grey else "RGB")
    if transform is None:
        return pixels
    converted = transform.apply(Image.fromarray(pixels.squeeze(2) if grey else pixels))
    return np.asarray(converted.convert("L") if grey else converted).reshape(pixels.shape)


def cmyk_to_rgb(image: Image.Image, profile: bytes) -> Image.Image:
    """A CMYK picture, 255 for all of the ink, as RGB: by its profile, or by what each ink takes from white."""
    transform = _transform(profile, "CMYK")
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(REMEMBERED)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where that changes nothing, or the profile is damaged or for another mode."""
    if not 0 < len(profile) <= MAX_PROFILE_BYTES:
        return None
    try:
        transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                            ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    shades = np.linspace(0, 255, PROBE_SHADES).astype(np.uint8)
    cube = np.stack(np.meshgrid(shades, shades, shades), axis=-1).reshape(PROBE_SHADES, -1, 3)
    probe = Image.fromarray(cube).convert(mode)
    converted = np.asarray(transform.apply(probe).convert(mode))
    return bool(np.abs(converted.astype(int) - np.asarray(probe)).max() <= SAME)
