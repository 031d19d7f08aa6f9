"""A queue of items ordered by time."""

import heapq
import itertools
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Timers(Generic[Item]):
    """Items by the time when they are due. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._counter = itertools.count()

    def add(self, moment: float, item: Item) -> None:
        heapq.heappush(self._heap, (moment, next(self._counter), item))

    def due(self, now: float) -> Iterator[Item]:
        """Remove and yield the items that are due, earliest first."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    def wait(self, now: float, most: float) -> float:
        """The seconds until the next item is due, at most `most`."""
        return min(max(self._heap[0][0] - now, 0.0), most) if self._heap else most
