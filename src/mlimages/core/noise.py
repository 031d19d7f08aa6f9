"""A filter for standard error: it drops lines of TensorFlow and libjpeg that inform about nothing.

With TF_CPP_MIN_LOG_LEVEL=0 or 1 in the environment, every line passes.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

_LOGGED = r"[IWE]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ "
NOISE = re.compile("|".join([
    # TensorFlow's libraries log before they have read TF_CPP_MIN_LOG_LEVEL.
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    _LOGGED + r"port\.cc:\d+\] oneDNN custom operations are on\. .*",
    _LOGGED + r"computation_placer\.cc:\d+\] computation placer already registered\. .*",
    _LOGGED + r"cuda_\w+\.cc:\d+\] Unable to register cu(FFT|DNN|BLAS) factory: Attempting to register factory .*",
    # The stage convert has decoded every image before, and lists those that it refused with the reason.
    _LOGGED + r"jpeg_mem\.cc:\d+\] Premature end of JPEG data\. Stopped at line \d+/\d+",
    r"Corrupt JPEG data: .*",
    r"Premature end of JPEG file",
]))
WITHOUT_GPU = re.compile("|".join([
    _LOGGED + r"cudart_stub\.cc:\d+\] Could not find cuda drivers on your machine, GPU will not be used\.",
    _LOGGED + r"cuda_\w+\.cc:\d+\] failed call to cuInit: .*",
]))
QUIET_LEVELS = ("2", "3")  # of TF_CPP_MIN_LOG_LEVEL
NVIDIA, DISPLAY = "0x10de", "0x03"  # a PCI device's vendor, and the first byte of its class


def is_noise(line: str) -> bool:
    """Whether to drop a line. Lines about missing CUDA are dropped only where there is no NVIDIA GPU."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") not in QUIET_LEVELS:
        return False
    line = line.rstrip("\r\n")
    return bool(NOISE.fullmatch(line) or not has_nvidia_gpu() and WITHOUT_GPU.fullmatch(line))


@functools.cache
def has_nvidia_gpu(system: Path = Path("/")) -> bool:
    """Whether this machine has an NVIDIA GPU, with or without a working driver. `system` is the root folder."""
    cards = [folder for folder in system.glob("sys/bus/pci/devices/*") if _read(folder / "vendor") == NVIDIA
             and _read(folder / "class").startswith(DISPLAY)]
    return bool(cards or [*system.glob("dev/nvidia[0-9]*")] or (system / "dev/dxg").exists())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def filter_stderr() -> None:
    """Filter what C and C++ libraries write to standard error, in this process and in those that it starts.

    A child process copies the lines, so that a crash of this process loses none. Python's `sys.stderr` does not pass
    through it: a progress bar on a terminal stays one.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") not in QUIET_LEVELS:
        return
    source, end = os.pipe()
    with os.fdopen(source, "rb") as lines:
        # In a session of its own: Ctrl-C ends this process, and its last lines are still to be copied.
        subprocess.Popen([sys.executable, "-S", __file__],  # noqa: S603 - this module
                         stdin=lines, stdout=subprocess.DEVNULL, start_new_session=True)
    if sys.stderr is sys.__stderr__:
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(end, 2)
    os.close(end)


if __name__ == "__main__":
    for line in open(0, encoding="utf-8", errors="replace", newline="\n"):
        if not is_noise(line):
            sys.stderr.write(line)
            sys.stderr.flush()
