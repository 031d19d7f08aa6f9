"""Pictures of data/images: what came of the URLs."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.download.ledger import Reason, Row, read_ledger
from mlimages.download.run import REASONS
from mlimages.download.shards import Member, index_shard
from mlimages.plots.canvas import BAD, GOOD, axes, bars, markdown_table, picture_grid, table

BINS_PER_TENFOLD = 40
SUSPECT_LINES = 10
HASH_BITS = 24  # by which hashes are counted before those that are frequent are told apart: bounded memory


def reasons_table(images: str | Path) -> str:
    """The ledger's reasons as a Markdown table, counted over both parts."""
    lines = _lines_by_reason(images)
    return markdown_table(("reason", "list lines", "share", "meaning"),
                          [(reason, f"{lines[reason]:,}", f"{lines[reason] / lines.total():.1%}", reason.meaning)
                           for reason in Reason if lines[reason]])


def failures(images: str | Path) -> None:
    """Why URLs gave no image."""
    lines = _lines_by_reason(images)
    ok, total = lines.pop(Reason.OK, 0), lines.total()
    names, values = zip(*lines.most_common(), strict=True) if lines else ((), ())
    bars(f"{total:,} of {ok + total:,} list lines gave no image", "list lines", names, values, BAD)


def hosts(images: str | Path, count: int = 15) -> None:
    """Of the hosts with the most list lines, how many gave an image."""
    gave: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for row in _rows(images):
        host = "/".join(row.url.split("/", 3)[2:3])
        lines[host] += 1
        gave[host] += row.reason is Reason.OK
    most = [host for host, _ in lines.most_common(count)]
    names = [f"{host or '(no host)'}: {gave[host] / lines[host]:.0%}" for host in most]
    ax = axes(f"What the {len(most)} most frequent of {len(lines):,} hosts gave", "list lines", "",
              height=1.4 + 0.28 * len(most))
    ax.barh(names, [gave[host] for host in most], color=GOOD, label="an image")
    ax.barh(names, [lines[host] - gave[host] for host in most], left=[gave[host] for host in most], color=BAD,
            label="no image")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()


def repeated_pictures(images: str | Path, count: int = 10) -> str:
    """The pictures that came for SUSPECT_LINES list lines or more, as a Markdown table: likely placeholders."""
    alike = np.zeros(2**HASH_BITS, np.uint32)
    for row in _pictures(images):
        alike[_bits(row)] += 1
    lines: Counter[str] = Counter()
    examples: dict[str, Row] = {}
    for row in _pictures(images) if alike.max() >= SUSPECT_LINES else ():
        if alike[_bits(row)] >= SUSPECT_LINES:
            lines[row.sha256] += 1
            examples.setdefault(row.sha256, row)
    suspects = [(digest, number) for digest, number in lines.most_common(count) if number >= SUSPECT_LINES]
    if not suspects:
        return f"No picture came for {SUSPECT_LINES} list lines or more."
    return markdown_table(("sha256", "list lines", "bytes", "one of the URLs"),
                          [(digest, f"{number:,}", f"{examples[digest].bytes:,}", examples[digest].url)
                           for digest, number in suspects])


def image_bytes(images: str | Path) -> None:
    """How large the downloaded files are."""
    title = "Size of the downloaded images"
    counts = Counter(int(BINS_PER_TENFOLD * math.log10(row.bytes)) for row in _pictures(images))
    if not counts:
        print(f"{title}: there is none")
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
    """The first images of the training shards with their most special classes."""
    tree = read_tree(Path(lists) / DICTIONARY)
    members = [member for shard in sorted(Path(images).glob("train/*.tar"))[:1] for member in index_shard(shard)]
    picture_grid("Downloaded images", [(member.read(), _caption(tree, member)) for member in members[:count]],
                 columns=8)


def images_of_class(images: str | Path, lists: str | Path, index: int, count: int = 12) -> None:
    """Training images that carry a class."""
    tree = read_tree(Path(lists) / DICTIONARY)
    found: list[Member] = []
    for shard in sorted(Path(images).glob("train/*.tar")):
        found += [member for member in index_shard(shard) if index in member.labels.classes]
        if len(found) >= count:
            break
    picture_grid(f"Images of: {tree.names[index]}",
                 [(member.read(), _caption(tree, member)) for member in found[:count]])


def special_classes(tree: ClassTree, classes: tuple[int, ...]) -> list[int]:
    """Those of some classes that are no ancestor of another one among them."""
    above = {ancestor for index in classes for ancestor in tree.ancestors(index)}
    return [index for index in classes if index not in above]


def _rows(images: str | Path) -> Iterator[Row]:
    for path in sorted(Path(images).glob("*/*.ledger.csv")):
        yield from read_ledger(path)


def _pictures(images: str | Path) -> Iterator[Row]:
    return (row for row in _rows(images) if row.reason is Reason.OK)


def _bits(row: Row) -> int:
    return int(row.sha256[:16], 16) % 2**HASH_BITS


def _lines_by_reason(images: str | Path) -> Counter[str]:
    lines: Counter[str] = Counter()
    for row in table(Path(images) / REASONS):
        lines[row["reason"]] += int(row["lines"])
    return lines


def _caption(tree: ClassTree, member: Member) -> str:
    return "\n".join(tree.label(index) for index in special_classes(tree, member.labels.classes)[:3])
