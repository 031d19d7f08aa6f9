"""Memory that is freed stays with the process."""

import platform

import pytest
from tests.faults import python, run

# Prints the number of page faults while blocks of 1 and 32 MiB are allocated, written and freed for a second time: by
# this thread, and by other threads that are still alive.
PROGRAM = """
import resource, sys, threading
import numpy as np
from mlimages.core import tuning

def take():
    blocks = [np.ones(mib * 2**17) for mib in (1, 32, 1)]

def take_on_a_thread():
    taken = threading.Event()
    threading.Thread(target=lambda: (take(), taken.set(), done.wait())).start()
    taken.wait()

done = threading.Event()
if sys.argv[1] == "kept":
    tuning.keep_freed_memory(tuning.FOR_STEPS)
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    take()
    take_on_a_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
done.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere malloc has no such settings")
def test_freed_memory_is_reused() -> None:
    given_back, kept = (int(run(python(PROGRAM, how), check=True).stdout) for how in ("given_back", "kept"))
    assert kept < given_back / 20
