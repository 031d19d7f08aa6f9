"""Convert the colours of an ICC profile to sRGB. A picture without a profile is assumed to be in sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 2**22  # larger than any profile in use
TOLERANCE = 2  # levels: profiles round their numbers, so that one of sRGB may differ from it by this much
PROBE_SHADES = 9  # of each channel
CACHED_PROFILES = 32  # most pictures have one of a few profiles


def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether a picture of this mode, RGB or L, needs no conversion. An unusable profile counts as sRGB."""
    return _transform(profile, mode) is None


def to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """Convert uint8 [rows, columns, 1 or 3] from `profile` to sRGB. The shape stays."""
    grey = pixels.shape[2] == 1
    transform = _transform(profile, "L" if grey else "RGB")
    if transform is None:
        return pixels
    converted = transform.apply(Image.fromarray(pixels.squeeze(2) if grey else pixels))
    return np.asarray(converted.convert("L") if grey else converted).reshape(pixels.shape)


def cmyk_to_rgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert a CMYK picture, in which 255 means full ink, to sRGB: by its profile or, without one, by Pillow."""
    transform = _transform(profile, "CMYK")
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(CACHED_PROFILES)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of a profile to sRGB; None if it changes nothing, or if the profile does not fit the mode."""
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
    return bool(np.abs(converted.astype(int) - np.asarray(probe)).max() <= TOLERANCE)
