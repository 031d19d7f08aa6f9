"""Lines that TensorFlow, libjpeg and Jupyter write although they say nothing, and a standard error without them.

Whoever sets TF_CPP_MIN_LOG_LEVEL to 0 or 1 gets every line.
"""

import functools
import os
import re
import sys
import threading
from pathlib import Path

_LOGGED = r"[IWE]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ "
NOISE = re.compile("|".join([
    # TensorFlow's libraries log before they have read TF_CPP_MIN_LOG_LEVEL.
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    _LOGGED + r"port\.cc:\d+\] oneDNN custom operations are on\. .*",
    _LOGGED + r"computation_placer\.cc:\d+\] computation placer already registered\. .*",
    _LOGGED + r"cuda_\w+\.cc:\d+\] Unable to register cu(FFT|DNN|BLAS) factory: Attempting to register factory .*",
    # Convert accounts for each picture that it refuses; what is left of one that it takes was looked at there.
    _LOGGED + r"jpeg_mem\.cc:\d+\] Premature end of JPEG data\. Stopped at line \d+/\d+",
    r"Corrupt JPEG data: .*",
    r"Premature end of JPEG file",
]))
WITHOUT_GPU = re.compile("|".join([
    _LOGGED + r"cudart_stub\.cc:\d+\] Could not find cuda drivers on your machine, GPU will not be used\.",
    _LOGGED + r"cuda_\w+\.cc:\d+\] failed call to cuInit: .*",
]))
QUIET_LEVELS = ("2", "3")  # of TF_CPP_MIN_LOG_LEVEL
NVIDIA, DISPLAY = "0x10de", "0x03"  # of what the PCI bus says of a device: its vendor, how its class begins


def is_noise(line: str) -> bool:
    """Whether a line says nothing; that CUDA is missing says something where there is a GPU of NVIDIA's."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") not in QUIET_LEVELS:
        return False
    line = line.rstrip("\r\n")
    return bool(NOISE.fullmatch(line) or not has_nvidia_gpu() and WITHOUT_GPU.fullmatch(line))


@functools.cache
def has_nvidia_gpu(system: Path = Path("/")) -> bool:
    """Whether this machine has a GPU of NVIDIA's, with or without a driver that works."""
    cards = [folder for folder in system.glob("sys/bus/pci/devices/*") if _fact(folder / "vendor") == NVIDIA
             and _fact(folder / "class").startswith(DISPLAY)]
    return bool(cards or [*system.glob("dev/nvidia[0-9]*")] or (system / "dev/dxg").exists())


def _fact(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def filtered_stderr() -> tuple[int, threading.Thread]:
    """What another process can have as its standard error: its lines, without noise, go to this process' own.

    Returns the file descriptor, to be closed once the process has it, and the thread that passes the lines on, which
    ends after the last process that has it.
    """
    source, end = os.pipe()
    thread = threading.Thread(target=_pass_on, args=[source], daemon=True)
    thread.start()
    return end, thread


def _pass_on(source: int) -> None:
    with os.fdopen(source, encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            if not is_noise(line):
                sys.stderr.write(line)
                sys.stderr.flush()
