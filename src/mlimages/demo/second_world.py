"""The pictures of the demo for the stage transfer, with shapes and backgrounds that mlimages.demo.world does not have.

A picture depends on its class, its number and the seed. Its colours are random, and so independent of its class. As in
the first world, a vivid object stands nearly upright on a grey, patterned background.
"""

import colorsys
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mlimages.core.params import TransferDemo
from mlimages.core.publish import atomic_write
from mlimages.demo.world import SUPERSAMPLING, encode

SHAPES = ("arch", "arrow", "bolt", "crescent", "drop", "flower", "heart", "hourglass", "key", "stairs")
GROUNDS = ("gradient", "waves", "bricks")
TILT = math.radians(15)
RADIUS = (0.28, 0.4)  # of an object, as a share of the picture's side
CONTRAST = 30  # levels between the two tones of the background
Point = tuple[float, float]

# The corners of shapes, in units of the radius: x to the right, y downwards.
POLYGONS: dict[str, tuple[Point, ...]] = {
    "arch": ((-0.8, 1), (-0.8, -0.9), (0.8, -0.9), (0.8, 1), (0.35, 1), (0.35, -0.4), (-0.35, -0.4), (-0.35, 1)),
    "arrow": ((0, -1), (0.75, -0.1), (0.3, -0.1), (0.3, 1), (-0.3, 1), (-0.3, -0.1), (-0.75, -0.1)),
    "bolt": ((0.25, -1), (-0.65, 0.15), (-0.05, 0.15), (-0.25, 1), (0.65, -0.2), (0.05, -0.2)),
    "hourglass": ((-0.75, -1), (0.75, -1), (0.12, 0), (0.75, 1), (-0.75, 1), (-0.12, 0)),
    "stairs": ((-0.9, 0.9), (-0.9, 0.3), (-0.3, 0.3), (-0.3, -0.3), (0.3, -0.3), (0.3, -0.9), (0.9, -0.9), (0.9, 0.9)),
}


def write_pictures(folder: Path, params: TransferDemo) -> None:
    """Write the pictures of all classes as `folder`/train/CLASS/NUMBER.jpg and `folder`/val/CLASS/NUMBER.jpg.

    Existing files are not written again.
    """
    counts = {"train": params.train_images, "val": params.val_images}
    for shape in SHAPES:
        for part, first in (("train", 0), ("val", params.train_images)):
            for number in range(first, first + counts[part]):
                path = folder / part / shape / f"{number:05d}.jpg"
                if not path.exists():
                    with atomic_write(path) as file:
                        file.write(draw(shape, number, params.seed, params.pixels))


def draw(shape: str, number: int, seed: int, pixels: int) -> bytes:
    """Draw a JPEG of [pixels, pixels]: one shape of a random colour, place and size on a noisy, patterned background.

    `shape` is one of SHAPES.
    """
    rng = random.Random(f"{seed}/{shape}/{number}")  # noqa: S311 - no cryptography
    side = pixels * SUPERSAMPLING
    image = _ground(rng, side)
    radius = rng.uniform(*RADIUS) * side
    place = (rng.uniform(radius, side - radius), rng.uniform(radius, side - radius))
    mask = Image.new("L", (side, side))
    _draw_shape(ImageDraw.Draw(mask), shape, place, radius, rng.uniform(-TILT, TILT))
    image.paste(_colour(rng), mask=mask)
    return encode(image, rng)


def _colour(rng: random.Random) -> tuple[int, int, int]:
    """A vivid colour of any hue, as red, green and blue."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.65, 1), rng.uniform(0.75, 1))
    return int(255 * red), int(255 * green), int(255 * blue)


def _ground(rng: random.Random, side: int) -> Image.Image:
    """A grey background with one of the patterns GROUNDS."""
    tone, contrast = rng.randint(70, 180), rng.choice((-CONTRAST, CONTRAST))
    step = rng.uniform(0.1, 0.2) * side
    y, x = np.mgrid[:side, :side].astype(np.float64)
    kind = rng.choice(GROUNDS)
    if kind == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        level = (math.cos(angle) * x + math.sin(angle) * y) / side
    elif kind == "waves":
        level = (np.sin(2 * math.pi * (x + step * np.sin(2 * math.pi * y / (3 * step))) / (2 * step)) > 0) * 1.0
    else:
        row = y // step
        joint = (y % step < step / 5) | ((x + row % 2 * step) % (2 * step) < step / 5)
        level = joint * 1.0
    return Image.fromarray((tone + contrast * level).clip(0, 255).astype(np.uint8)).convert("RGB")


def _draw_shape(canvas: ImageDraw.ImageDraw, shape: str, place: Point, radius: float, tilt: float) -> None:
    """Draw a white shape on a black canvas, rotated by `tilt` radians around `place`."""
    cos, sin = math.cos(tilt), math.sin(tilt)

    def at(x: float, y: float) -> Point:
        return place[0] + radius * (x * cos - y * sin), place[1] + radius * (x * sin + y * cos)

    def disc(x: float, y: float, size: float, fill: int = 255) -> None:
        left, top = at(x, y)
        canvas.ellipse([left - size * radius, top - size * radius, left + size * radius, top + size * radius], fill)

    def polygon(*corners: Point) -> None:
        canvas.polygon([at(*corner) for corner in corners], 255)

    if shape in POLYGONS:
        polygon(*POLYGONS[shape])
    elif shape == "crescent":
        disc(0, 0, 1)
        disc(0.45, -0.2, 0.85, fill=0)
    elif shape == "drop":
        disc(0, 0.35, 0.62)
        polygon((0, -1), (0.55, 0.1), (-0.55, 0.1))
    elif shape == "flower":
        for petal in range(5):
            disc(0.6 * math.cos(petal * 0.4 * math.pi), 0.6 * math.sin(petal * 0.4 * math.pi), 0.38)
        disc(0, 0, 0.3, fill=0)
    elif shape == "heart":
        disc(-0.42, -0.35, 0.48)
        disc(0.42, -0.35, 0.48)
        polygon((-0.85, -0.12), (0.85, -0.12), (0, 1))
    else:  # a key
        disc(0, -0.55, 0.45)
        disc(0, -0.55, 0.2, fill=0)
        polygon((-0.13, -0.2), (0.13, -0.2), (0.13, 1), (-0.13, 1))
        polygon((0, 0.45), (0.5, 0.45), (0.5, 0.65), (0, 0.65))
        polygon((0, 0.8), (0.5, 0.8), (0.5, 1), (0, 1))
