"""What all figures share: their look, tables from CSV files, and grids of pictures."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from PIL import Image

TRAIN, VALIDATION, GOOD, BAD, MUTED = "#3366aa", "#dd8833", "#338855", "#bb4444", "#999999"


def axes(title: str, x: str, y: str, *, width: float = 9.0, height: float = 3.6) -> Axes:
    """One pair of labelled axes, sizes in inches."""
    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    label(ax, title, x, y)
    return ax


def label(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set(title=title, xlabel=x, ylabel=y)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)


def table(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown, for IPython's Markdown to show."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def picture(body: bytes) -> Image.Image:
    """An encoded picture, in RGB."""
    return Image.open(io.BytesIO(body)).convert("RGB")


def picture_grid(title: str, pictures: Sequence[tuple[bytes, str]], *, columns: int = 6) -> None:
    """Encoded pictures with a caption below each."""
    if not pictures:
        print(f"{title}: there is none")
        return
    rows = -(-len(pictures) // columns)
    lines = max(caption.count("\n") + 1 for _, caption in pictures)
    figure, grid = plt.subplots(rows, columns, figsize=(1.9 * columns, (2.0 + 0.18 * lines) * rows + 0.4),
                                squeeze=False, layout="constrained")
    figure.suptitle(title)
    for ax in grid.flat:
        ax.axis("off")
    for ax, (body, caption) in zip(grid.flat, pictures, strict=False):
        ax.imshow(picture(body))
        ax.text(0.5, -0.05, caption, fontsize=8, ha="center", va="top", transform=ax.transAxes)
    plt.show()


def bars(title: str, x: str, names: Sequence[str], values: Sequence[float], colours: Any = TRAIN) -> None:
    """Horizontal bars, the first on top, each with its value."""
    ax = axes(title, x, "", height=1.2 + 0.28 * len(names))
    counts = all(value == int(value) for value in values)
    drawn = ax.barh(list(names), list(values), color=colours)
    ax.bar_label(drawn, fmt="{:,.0f}" if counts else "{:,.3g}", padding=3)
    ax.xaxis.set_major_locator(MaxNLocator(integer=counts))
    ax.xaxis.set_major_formatter("{x:,.0f}" if counts else "{x:,g}")
    ax.margins(x=0.12)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    plt.show()
