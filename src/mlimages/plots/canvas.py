"""Shared parts of the plots: colours, labelled axes, bars, grids of images, and tables."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from PIL import Image

TRAIN, VALIDATION, GOOD, BAD, MUTED = "#3366aa", "#dd8833", "#338855", "#bb4444", "#999999"
TEXT_COLUMNS = {"name": str, "names": str}  # of the published tables; a class may be called "12"
COUNT, SHARE, DECIMALS = "{:,.0f}", "{:.1%}", "{:.4f}"

# Show whole tables, also as text.
pd.set_option("display.max_rows", None, "display.max_columns", None, "display.max_colwidth", None,
              "display.width", 500)


def axes(title: str, x: str, y: str, *, width: float = 9.0, height: float = 3.6) -> Axes:
    """One pair of labelled axes in a new figure; width and height in inches."""
    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    label(ax, title, x, y)
    return ax


def label(ax: Axes, title: str, x: str, y: str) -> None:
    """Set the title and the axis labels, and draw a light grid."""
    ax.set(title=title, xlabel=x, ylabel=y)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)


def read_table(path: str | Path | TextIO) -> pd.DataFrame:
    """A published CSV file, by its path or its content; empty cells are NaN."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=TEXT_COLUMNS)


def read_json(folder: str | Path, name: str) -> dict[str, Any]:
    """The content of a published JSON file."""
    return json.loads((Path(folder) / name).read_text(encoding="utf-8"))


def both_ends(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first and the last rows, half of `count` each; all rows if there are no more than `count`."""
    return frame if len(frame) <= count else pd.concat([frame.head(count - count // 2), frame.tail(count // 2)])


def display_table(frame: pd.DataFrame, formats: Mapping[str, str]) -> pd.DataFrame:
    """The columns of `formats`, in that order, as text in these formats; NaN becomes empty text.

    Underscores in names become spaces. The result is for display and `to_latex()`; the numbers are in the CSV files.
    """
    columns = {name: frame[name].map(lambda value, form=form: "" if pd.isna(value) else form.format(value))
               for name, form in formats.items()}
    return pd.DataFrame(columns, index=frame.index).rename(columns=lambda name: name.replace("_", " ")).rename_axis(
        index=lambda name: name and name.replace("_", " "))


def decode_image(body: bytes) -> Image.Image:
    """An encoded image, in RGB."""
    return Image.open(io.BytesIO(body)).convert("RGB")


def image_grid(title: str, images: Sequence[tuple[bytes, str]], *, columns: int = 6) -> None:
    """Show encoded images, each above its caption."""
    if not images:
        print(f"{title}: there are none")
        return
    rows = -(-len(images) // columns)
    lines = max(caption.count("\n") + 1 for _, caption in images)
    figure, grid = plt.subplots(rows, columns, figsize=(1.9 * columns, (2.0 + 0.18 * lines) * rows + 0.4),
                                squeeze=False, layout="constrained")
    figure.suptitle(title)
    for ax in grid.flat:
        ax.axis("off")
    for ax, (body, caption) in zip(grid.flat, images, strict=False):
        ax.imshow(decode_image(body))
        ax.text(0.5, -0.05, caption, fontsize=8, ha="center", va="top", transform=ax.transAxes)
    plt.show()


def share_matrix(title: str, shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, x: str, y: str,
                 cell_inches: float) -> Axes:
    """Draw shares, float [rows, columns], as shades of blue in a new figure, with a name at each row and column."""
    side = 3 + cell_inches * len(rows)
    ax = axes(title, x, y, width=side + 1, height=side)
    ax.grid(visible=False)
    drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    points = min(10, 35 * cell_inches)
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=points)
    ax.set_yticks(range(len(rows)), rows, fontsize=points)
    plt.colorbar(drawn, ax=ax, label="share of the images with the true class", shrink=0.6)
    return ax


def bars(title: str, x: str, names: Sequence[str], values: Sequence[float], colours: Any = TRAIN) -> None:
    """Show horizontal bars with their values, the first bar at the top."""
    ax = axes(title, x, "", height=1.2 + 0.28 * len(names))
    are_counts = all(value == int(value) for value in values)
    drawn = ax.barh(list(names), list(values), color=colours)
    ax.bar_label(drawn, fmt="{:,.0f}" if are_counts else "{:,.3g}", padding=3)
    ax.xaxis.set_major_locator(MaxNLocator(integer=are_counts))
    ax.xaxis.set_major_formatter("{x:,.0f}" if are_counts else "{x:,g}")
    ax.margins(x=0.12)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    plt.show()
