"""Things to come back to at a time."""

import heapq
import itertools
from collections.abc import Iterator
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Timers(Generic[Thing]):
    """Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Thing]] = []
        self._ticket = itertools.count()

    def add(self, moment: float, what: Thing) -> None:
        heapq.heappush(self._heap, (moment, next(self._ticket), what))

    def due(self, now: float) -> Iterator[Thing]:
        """What the time has come for, earliest first; it is forgotten."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    def wait(self, now: float, most: float) -> float:
        """Seconds until the next one, at most so many."""
        return min(max(self._heap[0][0] - now, 0.0), most) if self._heap else most
