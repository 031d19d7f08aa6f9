"""The demo's classes, a tree of shapes, colours and textures, and its pictures, which are composed from them.

A picture depends on its id only, `WNID_NUMBER` as in ImageNet. The WordNet id names the leaf class of its main object,
such as `red triangle`. The number is the seed of everything else.
"""

import hashlib
import io
import math
import random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SHAPES = {"polygon": ("triangle", "square", "star"), "round": ("disc", "ring", "cross")}
COLOURS = {
    "warm": {"red": (220, 40, 40), "yellow": (235, 205, 50), "magenta": (210, 60, 190)},
    "cool": {"green": (50, 170, 70), "blue": (50, 80, 220), "cyan": (60, 200, 210)},
}
TEXTURES = ("striped", "dotted", "chequered")
RGB = {name: rgb for group in COLOURS.values() for name, rgb in group.items()}

# Confidences like those in the released lists: certain for the main object, lower for the small one and the background.
MAIN, SECOND, GROUND = 1.0, 0.8, 0.9
SUPERSAMPLING = 2
NOISE = 16  # levels at most, in both directions
# Objects stand nearly upright, as in most photographs.
UPRIGHT, TILT = -math.pi / 2, math.radians(20)


class DemoClass(NamedTuple):
    """A class of the demo's dictionary: index of the parent (-1 at a root), WordNet id, comma-separated names."""

    parent: int
    wnid: str
    names: str


def _build_classes() -> tuple[DemoClass, ...]:
    rows: list[DemoClass] = []

    def add(parent: int, name: str) -> int:
        rows.append(DemoClass(parent, f"n9{len(rows):07d}", name))
        return len(rows) - 1

    roots = {name: add(-1, name) for name in ("shape", "colour", "texture")}
    for group, shapes in SHAPES.items():
        group_index = add(roots["shape"], f"{group} shape, {group}")
        for shape in shapes:
            shape_index = add(group_index, shape)
            for colour in RGB:
                add(shape_index, f"{colour} {shape}")
    for group, colours in COLOURS.items():
        group_index = add(roots["colour"], f"{group} colour")
        for colour in colours:
            add(group_index, colour)
    for texture in TEXTURES:
        add(roots["texture"], texture)
    return tuple(rows)


CLASSES = _build_classes()
INDEX = {one.names.split(",")[0]: index for index, one in enumerate(CLASSES)}
NAME_OF = {one.wnid: one.names for one in CLASSES}
# The leaf classes in a random order, so that rare classes occur among all shapes and colours.
LEAVES = tuple(sorted((f"{colour} {shape}" for group in SHAPES.values() for shape in group for colour in RGB),
                      key=lambda name: hashlib.sha256(name.encode()).digest()))
LEAF_WEIGHTS = tuple(1 / (rank + 4) for rank in range(len(LEAVES)))


def image_ids(seed: int, part: str, count: int) -> list[str]:
    """Draw `count` different ids. Their main objects have a long-tailed distribution over the leaf classes."""
    rng = random.Random(f"{seed}/{part}")  # noqa: S311 - no cryptography
    leaves = rng.choices(LEAVES, LEAF_WEIGHTS, k=count)
    numbers = rng.sample(range(10**8), count)
    return [f"{CLASSES[INDEX[leaf]].wnid}_{number}" for leaf, number in zip(leaves, numbers, strict=True)]


def labels_of(image_id: str) -> dict[int, float]:
    """The classes of a picture, including their ancestors, and the confidence of each."""
    main, second, texture, _ = _compose(image_id)
    confidences: dict[int, float] = {}
    seen = [(main, MAIN), (main.split()[0], MAIN), (texture, GROUND)]
    if second:
        seen += [(second, SECOND), (second.split()[0], SECOND)]
    for name, confidence in seen:
        index = INDEX[name]
        while index >= 0:
            confidences[index] = max(confidence, confidences.get(index, 0.0))
            index = CLASSES[index].parent
    return confidences


def draw(image_id: str, pixels: int) -> bytes:
    """Draw a JPEG of [pixels, pixels]: a noisy texture, the main object, and in 30 % of the pictures a smaller one."""
    main, second, texture, rng = _compose(image_id)
    side = pixels * SUPERSAMPLING
    grey = rng.randint(55, 190)
    image = Image.new("RGB", (side, side), (grey, grey, grey))
    canvas = ImageDraw.Draw(image)
    _draw_ground(canvas, texture, side, grey + rng.choice((-45, 45)), rng)
    radius = rng.uniform(0.26, 0.34) * side
    place = _places(1, radius, side, rng)[0]
    if second:
        # The main object is drawn over it, so it takes the farthest of several places.
        small = rng.uniform(0.2, 0.25) * side
        spot = max(_places(12, small, side, rng), key=lambda spot: math.dist(spot, place))
        _draw_object(canvas, second, spot, small, rng)
    _draw_object(canvas, main, place, radius, rng)
    return encode(image, rng)


def encode(image: Image.Image, rng: random.Random) -> bytes:
    """A JPEG of a picture that was drawn with sides SUPERSAMPLING times as long, with noise."""
    picture = np.asarray(image.reduce(SUPERSAMPLING), np.int16)
    noise = np.frombuffer(rng.randbytes(picture.size), np.uint8).reshape(picture.shape).astype(np.int16)
    noisy = picture + noise % (2 * NOISE + 1) - NOISE
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _compose(image_id: str) -> tuple[str, str, str, random.Random]:
    """The main leaf class, the second one or "", the texture, and the random generator for the rest."""
    main = NAME_OF[image_id.partition("_")[0]]
    rng = random.Random(image_id)  # noqa: S311 - no cryptography
    second = rng.choices(LEAVES, LEAF_WEIGHTS)[0] if rng.random() < 0.3 else ""
    return main, second, rng.choice(TEXTURES), rng


def _places(count: int, radius: float, side: int, rng: random.Random) -> list[tuple[float, float]]:
    return [(rng.uniform(radius, side - radius), rng.uniform(radius, side - radius)) for _ in range(count)]


def _shade(rgb: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    factor = rng.uniform(0.65, 1.15)
    red, green, blue = (min(255, int(channel * factor)) for channel in rgb)
    return red, green, blue


def _draw_ground(canvas: ImageDraw.ImageDraw, texture: str, side: int, tone: int, rng: random.Random) -> None:
    step = rng.randint(side // 8, side // 5)
    fill = (tone, tone, tone)
    if texture == "striped":
        slope = rng.choice((-side, 0, side))
        for x in range(-side, 2 * side, 2 * step):
            canvas.line([(x, 0), (x + slope, side)], fill, width=step * 2 // 3)
        return
    for row, y in enumerate(range(0, side, step)):
        for column, x in enumerate(range(0, side, step)):
            if texture == "dotted":
                canvas.ellipse([x, y, x + step // 2, y + step // 2], fill)
            elif (row + column) % 2:
                canvas.rectangle([x, y, x + step - 1, y + step - 1], fill)


def _draw_object(canvas: ImageDraw.ImageDraw, leaf: str, place: tuple[float, float], radius: float,
                 rng: random.Random) -> None:
    colour, shape = leaf.split()
    (x, y), angle, fill = place, UPRIGHT + rng.uniform(-TILT, TILT), _shade(RGB[colour], rng)
    box = [x - radius, y - radius, x + radius, y + radius]
    if shape == "disc":
        canvas.ellipse(box, fill)
    elif shape == "ring":
        canvas.ellipse(box, None, fill, width=max(2, int(radius * 0.4)))
    elif shape == "cross":
        for turn in (0, math.pi / 2):
            dx, dy = radius * math.cos(angle + turn), radius * math.sin(angle + turn)
            canvas.line([(x - dx, y - dy), (x + dx, y + dy)], fill, width=max(2, int(radius * 0.5)))
    else:
        reaches = {"triangle": [radius] * 3, "square": [radius] * 4, "star": [radius, radius * 0.42] * 5}[shape]
        first = 0.5 if shape == "square" else 0.0  # a square stands on a side, the others have a corner on top
        turns = [angle + 2 * math.pi * (corner + first) / len(reaches) for corner in range(len(reaches))]
        canvas.polygon([(x + reach * math.cos(turn), y + reach * math.sin(turn))
                        for reach, turn in zip(reaches, turns, strict=True)], fill)
