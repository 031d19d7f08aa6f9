"""Select the lines of a list and complete their labels: `acquire.sample`, `classes` and `complete_ancestors`."""

import difflib
import hashlib
from collections.abc import Sequence

from mlimages.acquire.formats import UNKNOWN, Labels, ListEntry, known_classes
from mlimages.acquire.hierarchy import ClassTree
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire


class Selection:
    """Applies the parameters to one entry at a time, independently of all other entries."""

    def __init__(self, params: Acquire, tree: ClassTree) -> None:
        self._key = str(params.seed).encode()
        self._below = 2**64 if params.sample is None else int(params.sample * 2**64)
        self._wanted = _with_descendants(params.classes, tree)
        self._lineages = tree.lineages if params.complete_ancestors else None

    def digest(self, text: str) -> bytes:
        """An 8-byte hash that depends on the seed. The digest of a source decides whether the sample includes it."""
        return hashlib.blake2b(text.encode(), digest_size=8, key=self._key).digest()

    def accepts(self, entry: ListEntry, digest: bytes) -> bool:
        """Whether the entry, whose source has this digest, is selected. A larger sample includes a smaller one."""
        if int.from_bytes(digest) >= self._below:
            return False
        return not self._wanted or not self._wanted.isdisjoint(known_classes(entry.labels))

    def add_ancestors(self, entry: ListEntry) -> ListEntry:
        """Add the missing ancestors of the entry's classes if `complete_ancestors` is set.

        An added ancestor gets the highest confidence of its descendants in the entry; UNKNOWN is the lowest.
        """
        if self._lineages is None:
            return entry
        labels = dict(zip(*entry.labels, strict=True))
        missing: dict[int, float] = {}
        for index, confidence in labels.items():
            for ancestor in self._lineages[index]:
                if ancestor not in labels:
                    missing[ancestor] = max(confidence, missing.get(ancestor, UNKNOWN))
        if not missing:
            return entry
        return entry._replace(labels=Labels(*zip(*sorted({**labels, **missing}.items()), strict=True)))


def _with_descendants(wnids: Sequence[str], tree: ClassTree) -> frozenset[int]:
    indices = {wnid: index for index, wnid in enumerate(tree.wnids)}
    wanted: set[int] = set()
    for wnid in wnids:
        if wnid not in indices:
            nearest = difflib.get_close_matches(wnid, indices, n=1, cutoff=0.0)
            raise UserError(f"acquire.classes names {wnid}, which is not among the WordNet ids of the dictionary's "
                            f"{len(tree)} classes; the nearest is {nearest[0]}")
        wanted.add(indices[wnid])
    return frozenset(index for index, lineage in enumerate(tree.lineages)
                     if index in wanted or not wanted.isdisjoint(lineage))
