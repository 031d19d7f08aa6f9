"""Measure the training step against other programs in the same run, for docs/benchmarks.md.

    python benchmarks/train.py                                  # on a quiet machine; about half an hour
    python benchmarks/train.py --torch /path/to/python          # with PyTorch's own environment
    python benchmarks/train.py --isa AVX2                       # as on a processor without AVX-512
    python benchmarks/train.py --only step,busy,overhead,memory,start

Each program trains on random images in its own process, and prints the seconds of each step. The programs take turns,
so that they run under the same conditions. Those in TensorFlow keep freed memory (`src/mlimages/core/tuning.py`).
PyTorch is measured with and without that. `busy` measures them beside other processes, each of which keeps a core busy.
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
# The variables that restrict the instructions of oneDNN, PyTorch and MKL.
LOWERED = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
BUSY = (0, 1, 2)  # other processes that each keep a core busy


class Rival:
    """A process of `train_rivals.py` or `train_torch.py` that runs one step for each line of its input."""

    def __init__(self, name: str, *command: str, **environment: str) -> None:
        self.name, self.seconds = name, list[float]()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                         stderr=subprocess.DEVNULL,
                                         env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment})

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


def take_turns(rivals: list[Rival], rounds: int = ROUNDS) -> None:
    for rival in rivals:
        rival.seconds.clear()
    for _ in range(WARM_UPS):
        for rival in rivals:
            rival.step()
    for _ in range(rounds):
        for rival in rivals:
            rival.seconds.append(rival.step())


def close(rivals: list[Rival]) -> None:
    for rival in rivals:
        rival.close()


def compare(rivals: list[Rival]) -> dict[str, float]:
    """Run the programs in turn, and end them. Returns the median seconds of a step by program."""
    take_turns(rivals)
    close(rivals)
    return {rival.name: statistics.median(rival.seconds) for rival in rivals}


def lower(isa: str | None) -> None:
    """Restrict all processes that start later to these instructions. None changes nothing."""
    if isa:
        os.environ.update(zip(LOWERED, (isa, isa.lower(), isa), strict=True))


def ours(what: str, pixels: int, batch: int, classes: int, name: str | None = None, **environment: str) -> Rival:
    return Rival(name or what, sys.executable, str(HERE / "train_rivals.py"), what, str(pixels), str(batch),
                 str(classes), **environment)


def in_torch(torch: str | None, pixels: int, batch: int, *memories: str) -> list[Rival]:
    return [Rival(f"PyTorch, the same network, memory {memory}", torch, str(HERE / "train_torch.py"), memory,
                  str(pixels), str(batch), str(CLASSES)) for memory in memories if torch]


def measure_step(torch: str | None) -> None:
    for pixels, batch in SIZES:
        rivals = [ours("network", pixels, batch, CLASSES),
                  ours("network", pixels, batch, CLASSES, "network without oneDNN", TF_ENABLE_ONEDNN_OPTS="0"),
                  ours("applications", pixels, batch, CLASSES),
                  ours("sgemm", pixels, batch, CLASSES, "as many operations in products of 2048 x 2048"),
                  *in_torch(torch, pixels, batch, "plain", "kept")]
        medians = compare(rivals)
        own = medians[rivals[0].name]
        for name, median in medians.items():
            print(f"| {pixels} px, batch {batch} | {name} | {batch / median:.1f} images/s | ours is "
                  f"{median / own:.2f} times as fast |", flush=True)


def measure_busy(torch: str | None) -> None:
    """Print the speed beside other processes that keep cores busy."""
    pixels, batch = SIZES[0]
    rivals = [ours("network", pixels, batch, CLASSES), *in_torch(torch, pixels, batch, "plain")]
    alone: dict[str, float] = {}
    others: list[subprocess.Popen[bytes]] = []
    for count in BUSY:
        while len(others) < count:
            others.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        take_turns(rivals, ROUNDS // 2)
        for rival in rivals:
            median = statistics.median(rival.seconds)
            alone.setdefault(rival.name, median)
            print(f"| {pixels} px, batch {batch}, beside {count} busy processes | {rival.name} | "
                  f"{batch / median:.1f} images/s | {alone[rival.name] / median:.2f} of alone |", flush=True)
    close(rivals)
    for other in others:
        other.kill()
        other.wait()


def measure_overhead() -> None:
    for pixels, batch in SIZES:
        bare, full = (ours(what, pixels, batch, 11_166) for what in ("bare", "full"))
        one, other = compare([bare, full]).values()
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
    parser.add_argument("--isa", choices=["AVX2"], help="the instructions that oneDNN, PyTorch and MKL may use")
    parser.add_argument("--only", default="step,busy,overhead,memory,start")
    chosen = parser.parse_args()
    lower(chosen.isa)
    print(f"{os.cpu_count()} cores, {platform.machine()}, {chosen.isa or 'all instructions'}, Python "
          f"{platform.python_version()}, medians of {ROUNDS}")
    for what in chosen.only.split(","):
        if what == "step":
            measure_step(chosen.torch)
        elif what == "busy":
            measure_busy(chosen.torch)
        elif what == "overhead":
            measure_overhead()
        else:
            measure_alone(what)


if __name__ == "__main__":
    main()
