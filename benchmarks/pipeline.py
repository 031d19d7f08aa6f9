"""Measure the stages of the demo in a new clone, and a second run with nothing to do: seconds, memory, size of data/.

    python benchmarks/pipeline.py            # in an activated environment; about 10 minutes
    python benchmarks/pipeline.py --clones 2 # also compares the hashes of two clones' data
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

ROOT = Path(__file__).parents[1]
DATA = ("data/lists", "data/images", "data/tfrecords")
SAMPLE_SECONDS = 0.25  # between two samples of the memory


class Run(NamedTuple):
    """The seconds of a command, and the peak memory of its processes together, in bytes (PSS)."""

    seconds: float
    peak: int


def watch(command: list[str], folder: Path) -> Run:
    began, peak = time.monotonic(), 0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Run(time.monotonic() - began, peak)


def _memory(pid: int) -> int:
    """The memory of a process and its children. A page that several of them share counts once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:  # one of them has ended
        pass
    return total


def size(folder: Path) -> int:
    """The bytes of all files in a folder and its subfolders."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(folder: Path) -> dict[str, Any]:
    """Clone this repository, run the demo stage by stage and a second time, and read its metrics."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    names = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    stages = {name: watch(["dvc", "repro", "--single-item", name], folder) for name in names}
    nothing = watch(["dvc", "repro"], folder)
    metrics = json.loads((folder / "data/evaluation/metrics.json").read_text())
    locked = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    hashes = {out["path"]: out["md5"] for stage in locked.values() for out in stage["outs"]}
    return {"stages": stages, "nothing": nothing, "metrics": metrics, "size": size(folder / "data"),
            "hashes": {name: hashes[name] for name in DATA}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clones", type=int, default=1)
    clones = parser.parse_args().clones
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, ONEDNN_MAX_CPU_ISA="
          f"{os.environ.get('ONEDNN_MAX_CPU_ISA', '')}")
    hashes = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, clones + 1):
            one = measure(Path(folder) / str(number))
            print(f"clone {number}\n| stage | seconds | peak memory, MiB |\n| --- | --- | --- |")
            for name, run in {**one["stages"], "again, with nothing to do": one["nothing"]}.items():
                print(f"| {name} | {run.seconds:.1f} | {run.peak / 2**20:,.0f} |")
            precision = {name: one["metrics"][f"mean_average_precision_{name}"] for name in ("macro", "micro")}
            print(f"all stages {sum(run.seconds for run in one['stages'].values()):.0f} s; data/ "
                  f"{one['size'] / 2**20:,.0f} MiB; mean average precision {precision['macro']:.3f} macro, "
                  f"{precision['micro']:.3f} micro, base rate {one['metrics']['base_rate']:.3f}", flush=True)
            hashes.append(one["hashes"])
    if clones > 1:
        print(f"equal hashes of {', '.join(DATA)}: {all(one == hashes[0] for one in hashes)}")


if __name__ == "__main__":
    main()
