"""Pictures of data/images: what came of the URLs."""

from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.download.ledger import Reason, read_ledger
from mlimages.download.run import REASONS
from mlimages.download.shards import Member, index_shard
from mlimages.figures.canvas import BAD, GOOD, axes, bars, markdown_table, picture_grid, table


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


def image_bytes(images: str | Path) -> None:
    """How large the downloaded files are."""
    sizes = [row.bytes / 1024 for path in sorted(Path(images).glob("*/*.ledger.csv")) for row in read_ledger(path)
             if row.reason is Reason.OK]
    ax = axes("Size of the downloaded images", "KiB", "images")
    ax.hist(sizes, bins=40, color=GOOD)
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


def _lines_by_reason(images: str | Path) -> Counter[str]:
    lines: Counter[str] = Counter()
    for row in table(Path(images) / REASONS):
        lines[row["reason"]] += int(row["lines"])
    return lines


def _caption(tree: ClassTree, member: Member) -> str:
    return "\n".join(tree.label(index) for index in special_classes(tree, member.labels.classes)[:3])
