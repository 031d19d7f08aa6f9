"""For what another process or thread does."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    """Until it holds; AssertionError where it does not in so many seconds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "what the test waited for did not come"
        time.sleep(0.02)
