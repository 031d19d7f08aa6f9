"""Run a command with injected faults or on a small disk, and damage images."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import mlimages

# Longer than any command takes on a busy machine.
PATIENCE_SECONDS = 600.0
can_unshare = shutil.which("unshare") is not None and subprocess.run(
    ["unshare", "-rm", "true"], capture_output=True).returncode == 0
needs_unshare = pytest.mark.skipif(not can_unshare, reason="needs unshare and user namespaces, to mount a small disk")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to inject faults")

Ended = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    """An environment in which a process finds this repository's code, and writes each line at once."""
    source = str(Path(mlimages.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1"}


def run(command: Sequence[str], *, check: bool = False) -> Ended:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS,
                          check=check)


# With the filter only the traced calls stop the process. But strace 6.1 then injects no signals.
STRACE = ("strace", "-f", "-qq")
FILTER = "--seccomp-bpf"


def with_fault(fault: str, command: Sequence[str], *, path: Path | None = None) -> Ended:
    """Run a command with a fault in strace's notation: fsync:error=EIO:when=3+ or rename:signal=KILL:when=2.

    With `path`, only calls on this file fail.
    """
    only = ["-P", str(path)] if path else []
    if "signal=" not in fault:
        only.append(FILTER)
    return run([*STRACE, *only, "-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}",
                "-o", os.devnull, *command])


def on_small_disk(folder: Path, limit: str, command: Sequence[str]) -> Ended:
    """Run a command with `folder` on a disk with a limit, such as size=48k or nr_inodes=14.

    Standard output ends with a listing of the folder. Its files are copied back, so that the same command can continue
    without the limit.
    """
    folder.mkdir(exist_ok=True)
    left = folder.with_name(f"{folder.name}.left")
    script = ('mount -t tmpfs -o "$3" tmpfs "$1"; folder=$1; left=$2; shift 3; "$@"; code=$?; '
              'ls -aR "$folder"; cp -a "$folder" "$left"; exit $code')
    ended = run(["unshare", "-rm", "sh", "-c", script, "sh", str(folder), str(left), limit, *command])
    folder.rmdir()
    left.rename(folder)
    return ended


def assert_user_error(ended: Ended, *words: str) -> None:
    """Assert that a command ended with a UserError that contains `words`, and without a traceback."""
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "UserError: " in ended.stderr, ended.stderr
    said = ended.stderr[ended.stderr.index("UserError: "):]
    assert all(word in said for word in words), said
    assert "Traceback" not in ended.stderr


DISK = ("inodes are free at", "is kept", "run the same command")


# Keras imports these if they are installed, which takes a third of a process's start. No test here uses them.
LEAN = "import sys; sys.modules.update(matplotlib=None, scipy=None, sklearn=None)\n"


def python(code: str, *arguments: str) -> list[str]:
    """The command that runs `code` with `arguments`."""
    return [sys.executable, "-c", LEAN + code, *arguments]


def damage_image(body: bytes, rng: random.Random) -> bytes:
    """Cut an image at a random place, or flip bits, write zeros or insert a JPEG marker there."""
    content, at = bytearray(body), rng.randrange(2, len(body))
    match rng.randrange(4):
        case 0:
            del content[at:]
        case 1:
            for _ in range(rng.choice((1, 20))):
                content[rng.randrange(2, len(content))] ^= 1 << rng.randrange(8)
        case 2:
            content[at: at + 100] = bytes(len(content[at: at + 100]))
        case 3:
            content[at:at] = bytes([0xFF, rng.randrange(0xC0, 0x100)])
    return bytes(content)
