"""One list, from the lines as they came to the canonical list: checked, selected, and without repeats."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlimages.acquire.duplicates import Duplicates, LineDigests
from mlimages.acquire.formats import LineParser, ListEntry, ListFile, MalformedLine, format_line, raw_lines
from mlimages.acquire.selection import Selection
from mlimages.acquire.statistics import ListStatistics
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine
from mlimages.core.progress import progress
from mlimages.core.publish import atomic

REJECTED_COLUMNS = ("list", "line", "reason")
RejectedLine = tuple[str, int, str]


class ListChecker:
    """Writes the canonical form of the list at `path`, which has so many `lines`; `statistics` say what came of it."""

    def __init__(self, path: Path, lines: int, one: ListFile, selection: Selection, classes: int) -> None:
        self.statistics = ListStatistics(one, classes)
        self._path, self._lines, self._one = path, lines, one
        self._selection = selection
        self._parser = LineParser(one.origin, classes)

    def write(self, target: Path, sources: Path, params: Acquire, machine: Machine) -> Iterator[RejectedLine]:
        """Write `target`, and its sources' digests to `sources`, yielding the refused lines as (list, line, reason).

        Blank lines are skipped. Raises UserError when more than `malformed_fraction` of the others have been refused,
        and where there are no others.
        """
        with LineDigests(target.parent) as digests:
            with atomic(target) as file:
                yield from self._first_pass(file, digests, params, machine)
            self.statistics.flush()
            digests.save(sources)
            if len((repeats := digests.duplicates()).lines):
                self._leave_out(repeats, target)

    def _first_pass(self, file: BinaryIO, digests: LineDigests, params: Acquire,
                    machine: Machine) -> Iterator[RejectedLine]:
        """Write every line that is taken, repeats among them; refusals are yielded."""
        first: RejectedLine | None = None
        taken = 0
        with progress(f"check {self._one.name}", total=self._lines, unit=" lines", machine=machine) as bar:
            for number, line in raw_lines(self._path):
                if taken == params.limit:
                    break
                bar.update()
                if not line:
                    self._lines -= 1
                    continue
                try:
                    entry = self._parser.parse(line, number)
                except MalformedLine as error:
                    refusal = (self._one.name, number, str(error))
                    first = first or refusal
                    self.statistics.malformed += 1
                    self._check_refused(first, params.malformed_fraction)
                    yield refusal
                else:
                    taken += self._take(entry, file, digests)
        if not self._lines:
            raise UserError(f"{self._path}: the list is empty but for blank lines; expected one image a line")
        if first:
            self._check_refused(first, params.malformed_fraction)

    def _take(self, entry: ListEntry, file: BinaryIO, digests: LineDigests) -> bool:
        """Write and count an entry, completed, if it is selected."""
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

    def _check_refused(self, first: RejectedLine, allowed: float) -> None:
        if self.statistics.malformed > allowed * self._lines or self.statistics.malformed == self._lines:
            _, number, reason = first
            raise UserError(f"{self._path}: at least {self.statistics.malformed} of {self._lines} lines are malformed, "
                            f"more than acquire.malformed_fraction = {allowed:g} allows; the first is line {number}: "
                            f"{reason}")

    def _leave_out(self, repeats: Duplicates, target: Path) -> None:
        """Write `target` anew without these lines, and take them back from the statistics."""
        self.statistics.repeated, self.statistics.conflicting = len(repeats.lines), repeats.conflicting
        waiting = iter(repeats.lines.tolist())
        next_repeat = next(waiting, None)
        with target.open("rb") as lines, atomic(target) as file:
            for number, line in enumerate(lines):
                if number == next_repeat:
                    self.statistics.add(self._parser.parse(line.rstrip(), number), sign=-1)
                    next_repeat = next(waiting, None)
                else:
                    file.write(line)
        self.statistics.flush()
