"""Memory that need not be cleared or copied once more.

A process may keep what it frees: else its pages go back to the kernel, and come anew, cleared. What other C libraries
than glibc do is left as it is.
"""

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Options of glibc's mallopt, from its malloc.h: the most arenas, which threads share; the most blocks that come from
# the kernel one by one, and the bytes from which on a block does; the free bytes at an arena's end that are kept.
ARENAS, MAPPED, MAPPED_FROM, KEPT = -8, -4, -3, -1

# Threads that take and free pictures.
PICTURES = {ARENAS: 2, MAPPED_FROM: 32 * 2**20, KEPT: 128 * 2**20}
# Training steps, each of which takes and frees the same tensors, on any thread.
STEPS = {ARENAS: 1, MAPPED: 0, KEPT: 2**31 - 1}

ALIGNED = 64  # bytes: what TensorFlow asks of an array's address (EIGEN_MAX_ALIGN_BYTES)


def keep_freed(options: Mapping[int, int]) -> None:
    """For all threads that have not begun yet."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)


def aligned(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array, not initialised, that TensorFlow takes as it is; others it copies while all of Python waits."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start: start + size].view(dtype).reshape(shape)
