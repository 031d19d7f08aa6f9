"""Measure the cost of several workers and replicas on one machine.

    python benchmarks/scaling.py                          # on a quiet machine of two cores; about a quarter of an hour
    python benchmarks/scaling.py --only workers --batches 16 --rounds 4
    python benchmarks/scaling.py --only mirrored,recovery

workers: two workers of one core each against two independent processes of one core each, the machine's upper bound.
mirrored: two logical devices against one device with all cores. recovery: the time from kill -9 of a worker to the
error, and to the next step. The variants take turns, step by step, so that they run under the same conditions.
"""

import argparse
import csv
import dataclasses
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from mlimages.acquire.run import acquire  # noqa: E402
from mlimages.convert.run import convert  # noqa: E402
from mlimages.core.params import load  # noqa: E402
from mlimages.download.run import download  # noqa: E402
from mlimages.launch.tf_config import reserve_port  # noqa: E402

HERE = Path(__file__).parent
PIXELS, WARM_UPS = 64, 2
KILLED_STEPS = 100_000
TRAINS = """
import json, sys
from mlimages.core.params import Machine, Train
from mlimages.train.run import train

params, machine, tfrecords, out = json.loads(sys.argv[1])
train(Train(**params), Machine(**machine), tfrecords=tfrecords, out=out)
"""


class Rivals:
    """Processes of `scaling_step.py`, one on each of `cores` (-1: on all), that run their steps at the same time."""

    def __init__(self, strategy: str, exchange: str, batch: int, cores: list[int], parts: int = 1,
                 local: int = 1) -> None:
        self.steps, self.exchanges, self.worked = list[float](), list[float](), list[float]()
        self.moved = 0
        addresses = ",".join(_free_addresses(len(cores)))
        self._processes = [subprocess.Popen(
            [sys.executable, str(HERE / "scaling_step.py"), strategy, exchange, str(PIXELS), str(batch), str(parts),
             str(local), str(core), addresses, str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, bufsize=1) for index, core in enumerate(cores)]

    def take(self, line: str) -> tuple[float, float]:
        """Send a line to all processes. Returns the seconds of the slowest, and the highest CPU seconds."""
        for process in self._processes:
            print(line, file=process.stdin)
        seconds, worked = zip(*map(self._seconds, self._processes), strict=True)
        return max(seconds), max(worked)

    def _seconds(self, process: Any) -> tuple[float, float]:
        for line in process.stdout:
            kind, *numbers = line.split()
            if kind == "bytes":
                self.moved = int(numbers[0])
            elif kind == "seconds":
                return float(numbers[0]), float(numbers[1])
        raise RuntimeError("a rival ended; run benchmarks/scaling_step.py by itself to see why")

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def take_turns(rivals: list[Rivals], rounds: int) -> None:
    for number in range(WARM_UPS + rounds):
        for rival in rivals:
            (step, worked), (exchange, _) = rival.take("step"), rival.take("exchange")
            if number >= WARM_UPS:
                rival.steps.append(step)
                rival.worked.append(worked)
                rival.exchanges.append(exchange)
    for rival in rivals:
        rival.close()


def measure_workers(batches: list[int], exchanges: list[str], parts: int, local: int, rounds: int) -> None:
    for batch in batches:
        for exchange in exchanges:
            independent = Rivals("one_device", "float32", batch, [0, 1], parts, local)
            together = Rivals("multi_worker", exchange, 2 * batch, [0, 1], parts, local)
            take_turns([independent, together], rounds)
            alone, joined = statistics.median(independent.steps), statistics.median(together.steps)
            worked = statistics.median(together.worked)
            print(f"| batch {batch} a worker, in parts of {batch // parts}, {local} local steps, {exchange} | two "
                  f"independent {2 * batch / alone:.1f} images/s | two workers {2 * batch / joined:.1f} images/s | "
                  f"{alone / joined:.2f} | each sends {together.moved / 1e6:.0f} MB a step | exchange alone "
                  f"{statistics.median(together.exchanges):.3f} of {joined:.3f} s | a worker computes for {worked:.3f}"
                  f" s: {alone / worked:.2f} without any wait |", flush=True)


def measure_mirrored(batches: list[int], rounds: int) -> None:
    for batch in batches:
        one, two = Rivals("one_device", "float32", 2 * batch, [-1]), Rivals("mirrored", "float32", 2 * batch, [-1])
        take_turns([one, two], rounds)
        alone, joined = statistics.median(one.steps), statistics.median(two.steps)
        print(f"| global batch {2 * batch} | one device {2 * batch / alone:.1f} images/s | two logical devices "
              f"{2 * batch / joined:.1f} images/s | {alone / joined:.2f} |", flush=True)


def measure_recovery() -> None:
    """Kill a worker of a small training. Print the time until the error, and until the next row of the log."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        command = _small_training(root)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                   env={**os.environ, "PYTHONPATH": str(HERE.parent / "src")})
        while _step(root) < 20:
            time.sleep(0.05)
        [log] = root.glob("scratch/train/*/workers/worker-1.log")
        os.kill(int(re.findall(r"process (\d+) of ", log.read_text())[-1]), signal.SIGKILL)
        killed = time.monotonic()
        for line in process.stdout or []:
            if "was killed by SIGKILL" in line:
                break
        until_error, step = time.monotonic() - killed, _step(root)
        while _step(root) == step:
            time.sleep(0.05)
        print(f"| kill -9 of a worker | {until_error:.1f} s to the error | {time.monotonic() - killed:.1f} s to the "
              f"next row of the log |", flush=True)
        process.send_signal(signal.SIGTERM)
        process.communicate()


def _small_training(root: Path) -> list[str]:
    params = load(HERE.parent / "params.yaml")
    demo = dataclasses.replace(params.acquire.demo, train_images=60, val_images=20, pixels=64)
    machine = dataclasses.replace(params.machine, scratch=str(root / "scratch"), progress_seconds=3600.0)
    lists = acquire(dataclasses.replace(params.acquire, demo=demo), machine, out=root / "lists")
    images = download(params.download, machine, lists=lists, out=root / "images")
    records = convert(dataclasses.replace(params.convert, imagenet=str(lists / "imagenet.tar")), machine, lists=lists,
                      images=images, out=root / "tfrecords")
    training = dataclasses.replace(params.train, architecture="tiny", strategy="multi_worker", epochs=None, warmup=0.0,
                                   steps=KILLED_STEPS, checkpoint_steps=10, validation_images=0)
    task = [dataclasses.asdict(training), dataclasses.asdict(machine), str(records), str(root / "model")]
    return [sys.executable, "-c", TRAINS, json.dumps(task)]


def _step(root: Path) -> int:
    rows = [row for path in root.glob("scratch/train/*/training.csv") for row in csv.DictReader(path.open())]
    return int(rows[-1]["step"] or 0) if rows else 0


def _free_addresses(count: int) -> list[str]:
    held = [reserve_port(0, "a benchmark") for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in held]
    for one in held:
        one.close()
    return addresses


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="workers,mirrored,recovery")
    parser.add_argument("--batches", default="64,16", help="images a worker")
    parser.add_argument("--exchanges", default="float32,bfloat16", help="the types in which gradients are sent")
    parser.add_argument("--parts", type=int, default=1, help="of a worker's batch, in one exchange")
    parser.add_argument("--local-steps", type=int, default=1, help="of a worker, between two exchanges")
    parser.add_argument("--rounds", type=int, default=8)
    chosen = parser.parse_args()
    batches = [int(batch) for batch in chosen.batches.split(",")]
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, ResNet-50, {PIXELS} "
          f"pixels, 1,000 classes, medians of {chosen.rounds} rounds")
    for what in chosen.only.split(","):
        if what == "workers":
            measure_workers(batches, chosen.exchanges.split(","), chosen.parts, chosen.local_steps, chosen.rounds)
        elif what == "mirrored":
            measure_mirrored(batches, chosen.rounds)
        elif what == "recovery":
            measure_recovery()
        else:
            parser.error(f"--only {what}: expected workers, mirrored or recovery")


if __name__ == "__main__":
    main()
