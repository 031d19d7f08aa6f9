"""Plots and tables of data/images: the results of the list lines."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.download.ledger import LedgerRow, Reason, read_ledger
from mlimages.download.run import REASONS
from mlimages.download.shards import Sample, read_shard
from mlimages.plots.canvas import BAD, COUNT, GOOD, SHARE, axes, bars, display_table, image_grid, read_table

BINS_PER_TENFOLD = 40
SUSPECT_LINES = 10
HASH_BITS = 24  # of the hashes that are counted first, in bounded memory


def reasons_table(images: str | Path) -> pd.DataFrame:
    """The list lines of both parts by reason, the most frequent first."""
    lines = _lines_by_reason(images)
    meanings = {reason.value: reason.meaning for reason in Reason}
    frame = pd.DataFrame({"list_lines": lines, "share": lines / lines.sum(), "meaning": lines.index.map(meanings)})
    return display_table(frame, {"list_lines": COUNT, "share": SHARE, "meaning": "{}"})


def failures(images: str | Path) -> None:
    """Show why list lines gave no image."""
    lines = _lines_by_reason(images)
    failed = lines.drop(Reason.OK, errors="ignore")
    bars(f"{failed.sum():,} of {lines.sum():,} list lines gave no image", "list lines", failed.index.tolist(),
         failed.tolist(), BAD)


def hosts(images: str | Path, count: int = 15) -> None:
    """Show how many list lines have an image, for the hosts with the most lines."""
    gave: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for row in _rows(images):
        host = "/".join(row.url.split("/", 3)[2:3])
        lines[host] += 1
        gave[host] += row.reason is Reason.OK
    most = [host for host, _ in lines.most_common(count)]
    names = [f"{host or '(no host)'}: {gave[host] / lines[host]:.0%}" for host in most]
    ax = axes(f"The {len(most)} most frequent of {len(lines):,} hosts", "list lines", "",
              height=1.4 + 0.28 * len(most))
    ax.barh(names, [gave[host] for host in most], color=GOOD, label="an image")
    ax.barh(names, [lines[host] - gave[host] for host in most], left=[gave[host] for host in most], color=BAD,
            label="no image")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()


def repeated_images(images: str | Path, count: int = 10) -> pd.DataFrame:
    """The images that SUSPECT_LINES list lines or more have in common, by their hash: probably placeholders."""
    counts = np.zeros(2**HASH_BITS, np.uint32)
    for row in _images(images):
        counts[_bits(row)] += 1
    lines: Counter[str] = Counter()
    examples: dict[str, LedgerRow] = {}
    for row in _images(images) if counts.max() >= SUSPECT_LINES else ():
        if counts[_bits(row)] >= SUSPECT_LINES:
            lines[row.sha256] += 1
            examples.setdefault(row.sha256, row)
    repeated = [(digest, number, examples[digest].bytes, examples[digest].url)
                for digest, number in lines.most_common(count) if number >= SUSPECT_LINES]
    frame = pd.DataFrame(repeated, columns=["sha256", "list_lines", "bytes", "one_of_the_URLs"]).set_index("sha256")
    return display_table(frame, {"list_lines": COUNT, "bytes": COUNT, "one_of_the_URLs": "{}"})


def image_bytes(images: str | Path) -> None:
    """Show a histogram of the sizes of the downloaded files."""
    title = "Size of the downloaded images"
    counts = Counter(int(BINS_PER_TENFOLD * math.log10(row.bytes)) for row in _images(images))
    if not counts:
        print(f"{title}: there are none")
        return
    edges = [10 ** (edge / BINS_PER_TENFOLD) / 1024 for edge in range(min(counts), max(counts) + 2)]
    ax = axes(title, "KiB, on a logarithmic scale", "images")
    ax.stairs([counts[number] for number in range(min(counts), max(counts) + 1)], edges, fill=True, color=GOOD)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(10) if edges[-1] < 10 * edges[0] else LogLocator(subs=(1, 3)))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.xaxis.set_minor_locator(NullLocator())
    plt.show()


def contact_sheet(images: str | Path, lists: str | Path, count: int = 24) -> None:
    """Show the first images of the training shards with their most specific classes."""
    tree = read_tree(Path(lists) / DICTIONARY)
    samples = (sample for shard in sorted(Path(images).glob("train/*.tar"))[:1] for sample in read_shard(shard))
    image_grid("Downloaded images",
               [(sample.body, _caption(tree, sample)) for sample in itertools.islice(samples, count)], columns=8)


def _rows(images: str | Path) -> Iterator[LedgerRow]:
    for path in sorted(Path(images).glob("*/*.ledger.csv")):
        yield from read_ledger(path)


def _images(images: str | Path) -> Iterator[LedgerRow]:
    return (row for row in _rows(images) if row.reason is Reason.OK)


def _bits(row: LedgerRow) -> int:
    return int(row.sha256[:16], 16) % 2**HASH_BITS


def _lines_by_reason(images: str | Path) -> pd.Series:
    """The list lines of both parts by reason, the most frequent first."""
    lines = read_table(Path(images) / REASONS).groupby("reason")["lines"].sum()
    return lines.sort_values(ascending=False, kind="stable")


def _caption(tree: ClassTree, sample: Sample) -> str:
    return "\n".join(tree.label(index) for index in tree.specific(sample.labels.classes)[:3])
