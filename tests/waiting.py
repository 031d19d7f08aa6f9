"""Wait for another process or thread."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    """Return when `condition` holds. Raises AssertionError if it does not within `seconds`."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "what the test waited for did not come"
        time.sleep(0.02)
