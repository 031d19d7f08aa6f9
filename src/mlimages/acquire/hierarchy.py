"""Read the class tree from a dictionary in the released format: index, WordNet id, index of the parent, names."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlimages.core.errors import UserError


@dataclass(frozen=True)
class ClassTree:
    """A forest of n classes.

    `wnids`, `parents` (-1 at a root) and `names` (comma-separated synonyms) have length n.
    """

    wnids: Sequence[str]
    parents: Sequence[int]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.wnids)

    def label(self, index: int) -> str:
        """The first name of a class, for figures."""
        return self.names[index].split(",")[0]

    def ancestors(self, index: int) -> list[int]:
        """The ancestors of a class, from its parent to its root."""
        chain = []
        while (index := self.parents[index]) >= 0:
            chain.append(index)
        return chain

    def specific(self, classes: Collection[int]) -> list[int]:
        """Those of `classes` that are not an ancestor of another one of them."""
        ancestors = {ancestor for index in classes for ancestor in self.ancestors(index)}
        return [index for index in classes if index not in ancestors]

    def caption_classes(self, true: Collection[int], wrong: Collection[int]) -> tuple[list[int], list[int]]:
        """The true and the wrong classes that the caption of an image names.

        Left out are ancestors of a true class, and wrong classes that are ancestors of a named one.
        """
        specific = self.specific(true)
        named = set(self.specific([*specific, *wrong]))
        return specific, [index for index in wrong if index in named]

    @cached_property
    def lineages(self) -> tuple[tuple[int, ...], ...]:
        """The `ancestors` of each class."""
        return tuple(tuple(self.ancestors(index)) for index in range(len(self)))

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The children of each class, in ascending order."""
        lists: list[list[int]] = [[] for _ in self.parents]
        for index, parent in enumerate(self.parents):
            if parent >= 0:
                lists[parent].append(index)
        return tuple(tuple(row) for row in lists)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The depth of each class: 0 at a root."""
        return tuple(len(lineage) for lineage in self.lineages)


def read_tree(path: Path) -> ClassTree:
    """Read and check a dictionary: an optional header, then one class per line. Blank lines are skipped.

    Raises UserError, naming file and line, unless indices are consecutive, WordNet ids unique, parents existing
    classes, and no class is its own ancestor.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: the class dictionary; expected {path.name} beside the lists")
    rows: list[tuple[str, int, str]] = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for place, (number, line) in enumerate(lines):
        fields = line.rstrip("\r\n").split("\t")
        if place == 0 and not fields[0].strip().isdigit():
            continue
        rows.append(_parse_row(path, number, fields, len(rows)))
    if not rows:
        raise UserError(f"{path} is empty; expected a header and one line per class")
    wnids, parents, names = zip(*rows, strict=True)
    _check_tree(path, wnids, parents)
    return ClassTree(wnids, parents, names)


def _parse_row(path: Path, number: int, fields: list[str], expected: int) -> tuple[str, int, str]:
    try:
        if len(fields) != 4:
            raise ValueError(f"found {len(fields)} of these 4 fields")
        index, wnid, parent, names = fields
        row = (wnid.strip(), int(parent), names.strip())
        if int(index) != expected:
            raise ValueError(f"class {index} where {expected} was expected")
    except ValueError as error:
        raise UserError(f"{path}, line {number}: expected index, WordNet id, parent and names separated by tabs: "
                        f"{error}") from None
    return row


def _check_tree(path: Path, wnids: tuple[str, ...], parents: tuple[int, ...]) -> None:
    first_of: dict[str, int] = {}
    for index, wnid in enumerate(wnids):
        if (first := first_of.setdefault(wnid, index)) != index:
            raise UserError(f"{path}: the WordNet id {wnid} belongs to two classes, {first} and {index}")
    settled: set[int] = {-1}
    for index in range(len(parents)):
        chain: set[int] = set()
        current = index
        while current not in settled:
            if not -1 <= parents[current] < len(parents):
                raise UserError(f"{path}: class {current} has the parent {parents[current]}, which does not exist")
            if current in chain:
                raise UserError(f"{path}: class {current} is its own ancestor")
            chain.add(current)
            current = parents[current]
        settled |= chain
