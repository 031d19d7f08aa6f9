"""Map a function over work units on many threads, keeping order, memory and errors in hand."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Unit], Result], units: Iterable[Unit], *, workers: int,
                window: int) -> Iterator[Result]:
    """Yield `function(unit)` in the order of `units`, at most `window` of them begun and not yet yielded.

    The first exception ends the map: what has not begun is cancelled, and the exception is raised.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for unit in units:
            if len(pending) >= window:
                yield pending.popleft().result()
            pending.append(pool.submit(function, unit))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
