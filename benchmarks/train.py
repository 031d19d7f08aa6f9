"""The figures of the README's table of training, each beside its rival in the same run.

    python benchmarks/train.py                                  # on a quiet machine; about half an hour
    python benchmarks/train.py --torch /path/to/python          # with PyTorch's own environment
    python benchmarks/train.py --only step,overhead,memory,start

Every rival is a process of its own, trains on random images, and gives the seconds of one step when it is asked: they
take turns, so that all see the same machine. All in TensorFlow keep freed memory (`src/mlimages/memory.py`), and
PyTorch is measured as it comes and with memory kept.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SIZES = ((64, 32), (224, 8))
WARM_UPS, ROUNDS, CLASSES = 2, 8, 1000


class Rival:
    """A process of `train_rivals.py` or `train_torch.py` that takes one step for each line it gets."""

    def __init__(self, name: str, *command: str) -> None:
        self.name, self.seconds = name, list[float]()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                         stderr=subprocess.DEVNULL, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})

    def step(self) -> float:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError(f"{self.name} ended")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def take_turns(rivals: list[Rival]) -> None:
    for _ in range(WARM_UPS):
        for rival in rivals:
            rival.step()
    for _ in range(ROUNDS):
        for rival in rivals:
            rival.seconds.append(rival.step())
    for rival in rivals:
        rival.close()


def ours(what: str, pixels: int, batch: int, classes: int) -> Rival:
    return Rival(what, sys.executable, str(HERE / "train_rivals.py"), what, str(pixels), str(batch), str(classes))


def measure_step(torch: str | None) -> None:
    for pixels, batch in SIZES:
        rivals = [ours(what, pixels, batch, CLASSES) for what in ("network", "applications")]
        if torch:
            rivals += [Rival(f"PyTorch, the same network, memory {memory}", torch, str(HERE / "train_torch.py"), memory,
                             str(pixels), str(batch), str(CLASSES)) for memory in ("plain", "kept")]
        take_turns(rivals)
        own = statistics.median(rivals[0].seconds)
        for rival in rivals:
            median = statistics.median(rival.seconds)
            print(f"| {pixels} px, batch {batch} | {rival.name} | {batch / median:.1f} images/s | ours is "
                  f"{median / own:.2f} times as fast |", flush=True)


def measure_overhead() -> None:
    for pixels, batch in SIZES:
        bare, full = (ours(what, pixels, batch, 11_166) for what in ("bare", "full"))
        take_turns([bare, full])
        one, other = statistics.median(bare.seconds), statistics.median(full.seconds)
        print(f"| {pixels} px, batch {batch}, 11,166 classes | bare {batch / one:.1f} images/s | full step "
              f"{batch / other:.1f} images/s | {100 * (other / one - 1):+.1f} % |", flush=True)


def measure_alone(what: str) -> None:
    done = subprocess.run([sys.executable, str(HERE / "train_rivals.py"), what], capture_output=True, text=True,
                          check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3",
                                           "MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "0"})
    print("\n".join(line for line in done.stdout.splitlines() if line.startswith("|")), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch", help="a Python that can import torch")
    parser.add_argument("--only", default="step,overhead,memory,start")
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, medians of {ROUNDS}")
    for what in chosen.only.split(","):
        if what == "step":
            measure_step(chosen.torch)
        elif what == "overhead":
            measure_overhead()
        else:
            measure_alone(what)


if __name__ == "__main__":
    main()
