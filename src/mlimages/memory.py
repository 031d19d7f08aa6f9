"""Lets a process keep the memory that it frees: else its pages go back to the kernel, and come anew, cleared.

What other C libraries than glibc do is left as it is.
"""

import contextlib
import ctypes
from collections.abc import Mapping

# Options of glibc's mallopt, from its malloc.h: the most arenas, which threads share; the most blocks that come from
# the kernel one by one, and the bytes from which on a block does; the free bytes at an arena's end that are kept.
ARENAS, MAPPED, MAPPED_FROM, KEPT = -8, -4, -3, -1

# Threads that take and free pictures.
PICTURES = {ARENAS: 2, MAPPED_FROM: 32 * 2**20, KEPT: 128 * 2**20}
# Training steps, each of which takes and frees the same tensors, on any thread.
STEPS = {ARENAS: 1, MAPPED: 0, KEPT: 2**31 - 1}


def keep_freed(options: Mapping[int, int]) -> None:
    """For all threads that have not begun yet."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)
