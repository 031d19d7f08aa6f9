"""How this process keeps memory."""

import ctypes

# Of glibc's malloc.h, and what they are set to: one heap for all threads, which holds blocks of every size and whose
# freed end is never given back.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
SETTINGS = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}


def keep_freed_memory() -> None:
    """Let what is freed be there for the next time, where malloc is glibc's; elsewhere this does nothing.

    A training step frees what the next one needs again. Given back to the system between them, on CPUs the pages cost
    a tenth of all time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in SETTINGS.items():
            mallopt(parameter, value)
