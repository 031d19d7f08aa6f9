"""Turn one raw list into its canonical form: checked, selected, and without repeated images."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlimages.acquire.duplicates import Duplicates, LineDigests
from mlimages.acquire.formats import LineParser, ListEntry, ListFile, MalformedLine, format_line, raw_lines
from mlimages.acquire.selection import Selection
from mlimages.acquire.statistics import ListStatistics
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine
from mlimages.core.progress import progress_bar
from mlimages.core.publish import atomic_write

REJECTED_COLUMNS = ("list", "line", "reason")
RejectedLine = tuple[str, int, str]


class ListChecker:
    """Checks the list at `path`, which has `lines` lines, and counts what it finds in `statistics`.

    `unlabelled` accepts images without labels.
    """

    def __init__(self, path: Path, lines: int, listed: ListFile, selection: Selection, classes: int, *,
                 unlabelled: bool) -> None:
        self.statistics = ListStatistics(listed, classes)
        self._path, self._lines, self._name = path, lines, listed.name
        self._selection = selection
        self._parser = LineParser(listed.origin, classes, unlabelled=unlabelled)

    def write(self, target: Path, sources: Path, params: Acquire, machine: Machine) -> Iterator[RejectedLine]:
        """Write the canonical list to `target` and the digests of its sources to `sources`.

        Yields the malformed lines as (list, line, reason). Blank lines are skipped. Raises UserError if more than
        `malformed_fraction` of the other lines are malformed, if all of them are, or if there are none.
        """
        with LineDigests(target.parent) as digests:
            with atomic_write(target) as file:
                yield from self._write_entries(file, digests, params, machine)
            self.statistics.flush()
            digests.save(sources)
            if len((duplicates := digests.duplicates()).lines):
                self._remove(duplicates, target)

    def _write_entries(self, file: BinaryIO, digests: LineDigests, params: Acquire,
                       machine: Machine) -> Iterator[RejectedLine]:
        """Write every selected line, duplicates included, and yield the malformed ones."""
        first: RejectedLine | None = None
        written = 0
        with progress_bar(f"check {self._name}", total=self._lines, unit=" lines", machine=machine) as bar:
            for number, line in raw_lines(self._path):
                if written == params.limit:
                    break
                bar.update()
                if not line:
                    self._lines -= 1
                    continue
                try:
                    entry = self._parser.parse(line, number)
                except MalformedLine as error:
                    rejected = (self._name, number, str(error))
                    first = first or rejected
                    self.statistics.malformed += 1
                    self._check_malformed(first, params.malformed_fraction)
                    yield rejected
                else:
                    written += self._write_selected(entry, file, digests)
        if not self._lines:
            raise UserError(f"{self._path}: the list has only blank lines; expected one image per line")
        if first:
            self._check_malformed(first, params.malformed_fraction)

    def _write_selected(self, entry: ListEntry, file: BinaryIO, digests: LineDigests) -> bool:
        """Write and count the entry if it is selected. Returns whether it is."""
        digest = self._selection.digest(entry.source)
        if not self._selection.accepts(entry, digest):
            self.statistics.not_selected += 1
            return False
        completed = self._selection.add_ancestors(entry)
        self.statistics.ancestors_added += len(completed.labels.classes) - len(entry.labels.classes)
        self.statistics.add(completed)
        text = format_line(completed)
        digests.add(digest, self._selection.digest(text[len(entry.source):]))
        file.write(text.encode())
        return True

    def _check_malformed(self, first: RejectedLine, allowed: float) -> None:
        malformed = self.statistics.malformed
        if malformed > allowed * self._lines or malformed == self._lines:
            _, number, reason = first
            raise UserError(f"{self._path}: at least {malformed} of {self._lines} lines are malformed, more than "
                            f"acquire.malformed_fraction = {allowed:g} allows; the first is line {number}: {reason}")

    def _remove(self, duplicates: Duplicates, target: Path) -> None:
        """Rewrite `target` without the duplicates, and subtract them from the statistics."""
        self.statistics.repeated, self.statistics.conflicting = len(duplicates.lines), duplicates.conflicting
        remaining = iter(duplicates.lines.tolist())
        next_duplicate = next(remaining, None)
        with target.open("rb") as lines, atomic_write(target) as file:
            for number, line in enumerate(lines):
                if number == next_duplicate:
                    self.statistics.add(self._parser.parse(line.rstrip(), number), sign=-1)
                    next_duplicate = next(remaining, None)
                else:
                    file.write(line)
        self.statistics.flush()
