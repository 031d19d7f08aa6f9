"""Settings of a process that make TensorFlow and NumPy faster: oneDNN's kernels, threads, and memory.

TensorFlow 2.21 enables oneDNN by itself only for processors with AVX-512 VNNI, BF16 or AMX. With AVX2 alone, its
other kernels, Eigen's, need twice the time for a training step (docs/benchmarks.md).
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
# oneDNN and Eigen choose kernels by these, and kernels sum in different orders. The names are Linux's, x86 and ARM.
INSTRUCTION_SETS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
                    "amx_bf16", "amx_int8", "amx_fp16", "asimd", "sve", "sve2", "bf16")

# Options of glibc's mallopt, from its malloc.h.
M_ARENA_MAX, M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -4, -3, -1
# For threads that allocate and free images.
FOR_IMAGES = {M_ARENA_MAX: 2, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 128 * 2**20}
# For training steps, which allocate and free the same tensors on any thread.
FOR_STEPS = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
ALIGNMENT = 64  # bytes, of an array's address: TensorFlow's EIGEN_MAX_ALIGN_BYTES


def enable_onednn(environment: MutableMapping[str, str], cpuinfo: Path = CPUINFO) -> None:
    """Set TF_ENABLE_ONEDNN_OPTS=1 where the processor has AVX2, unless the variable is set.

    Call it before the import of TensorFlow. On other processors, and without Linux's cpuinfo, TensorFlow decides.
    """
    if ONEDNN not in environment and "avx2" in instruction_sets(cpuinfo):
        environment[ONEDNN] = "1"


def instruction_sets(cpuinfo: Path = CPUINFO) -> list[str]:
    """Which of INSTRUCTION_SETS the first processor in Linux's cpuinfo has; none without that file."""
    flags = _flags(cpuinfo)
    return [name for name in INSTRUCTION_SETS if name in flags]


@functools.cache  # a network asks for each of its layers
def _flags(cpuinfo: Path) -> frozenset[str]:
    """All flags of the first processor in Linux's cpuinfo."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:
            listed = file.read(CPUINFO_BYTES)
    except OSError:
        return frozenset()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", listed, re.MULTILINE)
    return frozenset(flags[1].split() if flags else ())


def onednn_uses_avx512(environment: Mapping[str, str] = os.environ, cpuinfo: Path = CPUINFO) -> bool:
    """Whether oneDNN uses AVX-512: the processor has it, and ONEDNN_MAX_CPU_ISA does not forbid it."""
    most = environment.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return "avx512f" in instruction_sets(cpuinfo) and not most.startswith(("SSE", "AVX2")) and most != "AVX"


def package_versions() -> dict[str, str]:
    """The versions of the packages whose arithmetic determines the weights."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def intra_op_threads() -> int:
    """The number of threads that TensorFlow uses for one operation in this process. Imports TensorFlow."""
    import tensorflow as tf

    chosen = tf.config.threading.get_intra_op_parallelism_threads() or int(os.environ.get(INTRA_OP_THREADS) or 0)
    return chosen if chosen > 0 else len(os.sched_getaffinity(0))


def onednn_setting() -> str:
    """The value of TF_ENABLE_ONEDNN_OPTS. Workers compare it before they import TensorFlow."""
    return os.environ.get(ONEDNN, "not set")


def onednn_enabled() -> bool:
    """Whether TensorFlow computes with oneDNN in this process. Imports TensorFlow."""
    from tensorflow.python.util import _pywrap_util_port  # TensorFlow has no public function for it

    return bool(_pywrap_util_port.IsMklEnabled())


def keep_freed_memory(options: Mapping[int, int]) -> None:
    """Set glibc's malloc options, so that freed memory stays with this process. Call it before threads start.

    On a system without mallopt it does nothing.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)


def aligned_empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An uninitialized array that TensorFlow uses in place. It copies other arrays, which blocks all Python threads."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start: start + size].view(dtype).reshape(shape)
