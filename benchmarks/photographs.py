"""Pictures for benchmarks: cut from photographs, or drawn where there are none."""

import io
import random
from pathlib import Path

from PIL import Image


def photographs(folder: Path, photos: Path | None, count: int, target_bytes: int = 48_000) -> None:
    """`count` different JPEGs of about so many bytes."""
    folder.mkdir()
    rng = random.Random(0)  # noqa: S311 - it cuts pictures
    originals = [Image.open(path).convert("RGB") for path in sorted(photos.iterdir())] if photos else []
    for number in range(count):
        if originals:
            whole = rng.choice(originals)
            width, height = min(500, whole.width), min(375, whole.height)
            x, y = rng.randint(0, whole.width - width), rng.randint(0, whole.height - height)
            picture = whole.crop((x, y, x + width, y + height))
        else:
            noise = Image.frombytes("L", (500, 375), rng.randbytes(500 * 375))
            picture = Image.merge("RGB", [Image.linear_gradient("L").resize((500, 375))] * 3)
            picture = Image.blend(picture, noise.convert("RGB"), 0.1)
        for quality in (75, 85, 92, 96):
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality)
            if buffer.tell() >= target_bytes * 0.8:
                break
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
