"""What depends on the processor: whether TensorFlow computes with oneDNN, and with which instructions.

TensorFlow 2.21 switches oneDNN on by itself only for processors with AVX-512 VNNI, BF16 or AMX. With AVX2 alone its
other kernels, Eigen's, take twice the time for a training step (docs/benchmarks.md).
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # TensorFlow reads it when it is imported
INTRA_OP_THREADS = "TF_NUM_INTRAOP_THREADS"  # TensorFlow reads it when it first computes
CPUINFO = Path("/proc/cpuinfo")
CPUINFO_BYTES = 16_384  # holds the first processor; a machine may list hundreds
PACKAGES = ("keras", "numpy", "tensorflow")
# By which oneDNN and Eigen choose kernels, which add up in other orders (Linux' names, of x86 and of ARM).
INSTRUCTION_SETS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
                    "amx_bf16", "amx_int8", "amx_fp16", "asimd", "sve", "sve2", "bf16")


def enable_onednn(environment: MutableMapping[str, str], cpuinfo: Path = CPUINFO) -> None:
    """Set TF_ENABLE_ONEDNN_OPTS=1 where the processor has AVX2, unless the variable is set.

    Call it before TensorFlow is imported. On other processors, and where Linux' cpuinfo is absent, TensorFlow decides.
    """
    if ONEDNN not in environment and "avx2" in instruction_sets(cpuinfo):
        environment[ONEDNN] = "1"


def instruction_sets(cpuinfo: Path = CPUINFO) -> list[str]:
    """Which of INSTRUCTION_SETS the first processor in Linux' cpuinfo has; none where there is no such file."""
    flags = _flags(cpuinfo)
    return [name for name in INSTRUCTION_SETS if name in flags]


@functools.cache  # a network asks for each of its layers
def _flags(cpuinfo: Path) -> frozenset[str]:
    """All flags of the first processor in Linux' cpuinfo."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:
            listed = file.read(CPUINFO_BYTES)
    except OSError:
        return frozenset()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", listed, re.MULTILINE)
    return frozenset(flags[1].split() if flags else ())


def onednn_uses_avx512(environment: Mapping[str, str] = os.environ, cpuinfo: Path = CPUINFO) -> bool:
    """Whether oneDNN uses AVX-512: the processor has it, and ONEDNN_MAX_CPU_ISA does not name something less."""
    most = environment.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return "avx512f" in instruction_sets(cpuinfo) and not most.startswith(("SSE", "AVX2")) and most != "AVX"


def package_versions() -> dict[str, str]:
    """The versions of the packages whose arithmetic decides the weights."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def intra_op_threads() -> int:
    """The number of threads by which TensorFlow computes one operation in this process. Imports TensorFlow."""
    import tensorflow as tf

    chosen = tf.config.threading.get_intra_op_parallelism_threads() or int(os.environ.get(INTRA_OP_THREADS) or 0)
    return chosen if chosen > 0 else len(os.sched_getaffinity(0))


def onednn_setting() -> str:
    """What TF_ENABLE_ONEDNN_OPTS says, for workers to compare before TensorFlow is imported."""
    return os.environ.get(ONEDNN, "not set")


def onednn_enabled() -> bool:
    """Whether TensorFlow computes with oneDNN in this process. Imports TensorFlow."""
    from tensorflow.python.util import _pywrap_util_port  # TensorFlow has no public function for it

    return bool(_pywrap_util_port.IsMklEnabled())

# Options of glibc's mallopt, from its malloc.h: the most arenas, which threads share; the most blocks that come from
# the kernel one by one, and the bytes from which on a block does; the free bytes at an arena's end that are kept.
ARENAS, MAPPED, MAPPED_FROM, KEPT = -8, -4, -3, -1

# Threads that take and free pictures.
FOR_IMAGES = {ARENAS: 2, MAPPED_FROM: 32 * 2**20, KEPT: 128 * 2**20}
# Training steps, each of which takes and frees the same tensors, on any thread.
FOR_STEPS = {ARENAS: 1, MAPPED: 0, KEPT: 2**31 - 1}

ALIGNED = 64  # bytes: what TensorFlow asks of an array's address (EIGEN_MAX_ALIGN_BYTES)


def keep_freed_memory(options: Mapping[int, int]) -> None:
    """For all threads that have not begun yet."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)


def aligned_empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array, not initialised, that TensorFlow takes as it is; others it copies while all of Python waits."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start: start + size].view(dtype).reshape(shape)
