"""Write the pictures for benchmarks."""

import io
import random
from pathlib import Path

from PIL import Image

from mlimages.demo import world

WIDTH, HEIGHT = 500, 375  # pixels


def photographs(folder: Path, photos: Path | None, count: int, target_bytes: int = 48_000) -> None:
    """Write `count` different JPEGs of `target_bytes` on average, as 0.jpg, 1.jpg and so on.

    They are random crops of the pictures in `photos`, or drawn like those of the demo. The quality is adapted step by
    step, so that the mean size comes near the target.
    """
    folder.mkdir(parents=True)
    rng = random.Random(0)  # noqa: S311 - no cryptography
    originals = [Image.open(path).convert("RGB") for path in sorted(photos.iterdir())] if photos else []
    total, quality = 0, 90
    for number in range(count):
        picture = _cut(rng.choice(originals), rng) if originals else _drawn(number)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
        total += buffer.tell()
        quality = min(max(quality + (1 if total < target_bytes * (number + 1) else -1), 60), 97)


def _cut(whole: Image.Image, rng: random.Random) -> Image.Image:
    width, height = min(WIDTH, whole.width), min(HEIGHT, whole.height)
    x, y = rng.randint(0, whole.width - width), rng.randint(0, whole.height - height)
    return whole.crop((x, y, x + width, y + height))


def _drawn(number: int) -> Image.Image:
    """The middle of a square picture of the demo."""
    [image_id] = world.image_ids(number, "benchmark", 1)
    square = Image.open(io.BytesIO(world.draw(image_id, WIDTH)))
    return square.crop((0, (WIDTH - HEIGHT) // 2, WIDTH, (WIDTH + HEIGHT) // 2))
