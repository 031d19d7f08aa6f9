"""A measurement that nothing before it can help or disturb."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def apart(what: Callable[..., Any], *arguments: Any) -> Any:
    """What `what` returns for these arguments, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(what, *arguments).result()
