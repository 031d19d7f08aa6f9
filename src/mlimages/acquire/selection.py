"""Which lines of the lists are taken, and with which labels: `acquire.sample`, `classes` and `complete_ancestors`."""

import difflib
import hashlib
from collections.abc import Sequence

from mlimages.acquire.formats import Labels, ListEntry
from mlimages.acquire.hierarchy import ClassTree
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire


class Selection:
    """What the parameters make of one entry after another; it knows nothing of the entries before."""

    def __init__(self, params: Acquire, tree: ClassTree) -> None:
        self._key = str(params.seed).encode()
        self._below = 2**64 if params.sample is None else int(params.sample * 2**64)
        self._wanted = _with_descendants(params.classes, tree)
        self._lineages = tree.lineages if params.complete_ancestors else None

    def digest(self, text: str) -> bytes:
        """8 bytes that depend on the seed: for a source they also say whether it falls into the sample."""
        return hashlib.blake2b(text.encode(), digest_size=8, key=self._key).digest()

    def accepts(self, entry: ListEntry, digest: bytes) -> bool:
        """Whether a line is taken, of whose source this is the digest: a smaller sample lies within a larger one."""
        if int.from_bytes(digest) >= self._below:
            return False
        return not self._wanted or not self._wanted.isdisjoint(entry.labels.classes)

    def add_ancestors(self, entry: ListEntry) -> ListEntry:
        """The entry with every missing ancestor, each as sure as the surest of its descendants in the line."""
        if self._lineages is None:
            return entry
        labels = dict(zip(*entry.labels, strict=True))
        missing: dict[int, float] = {}
        for index, confidence in labels.items():
            for ancestor in self._lineages[index]:
                if ancestor not in labels:
                    missing[ancestor] = max(confidence, missing.get(ancestor, 0.0))
        if not missing:
            return entry
        return entry._replace(labels=Labels(*zip(*sorted({**labels, **missing}.items()), strict=True)))


def _with_descendants(wnids: Sequence[str], tree: ClassTree) -> frozenset[int]:
    indices = {wnid: index for index, wnid in enumerate(tree.wnids)}
    wanted: set[int] = set()
    for wnid in wnids:
        if wnid not in indices:
            near = difflib.get_close_matches(wnid, indices, n=1, cutoff=0.0)
            raise UserError(f"acquire.classes names {wnid}, which is no WordNet id of the dictionary's {len(tree)} "
                            f"classes; the nearest is {near[0]}")
        wanted.add(indices[wnid])
    return frozenset(index for index, lineage in enumerate(tree.lineages)
                     if index in wanted or not wanted.isdisjoint(lineage))
