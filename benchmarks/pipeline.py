"""The figures of the README's first table: a fresh clone, installed; its first repro; a second with nothing to do.

    python benchmarks/pipeline.py            # in an activated environment; about 10 minutes
    python benchmarks/pipeline.py --clones 2 # and compares the hashes of two clones' data
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DATA = ("data/lists", "data/images", "data/tfrecords")


def seconds(command: list[str], folder: Path) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def measure(folder: Path) -> dict[str, Any]:
    """Clone this repository as committed, run the demo twice, and read its figures."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    first, second = (seconds(["dvc", "repro"], folder) for _ in range(2))
    metrics = json.loads((folder / "data/evaluation/metrics.json").read_text())
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    hashes = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    return {"repro": first, "nothing": second, "macro": metrics["mean_average_precision_macro"],
            "base": metrics["base_rate"], "hashes": {name: hashes[name] for name in DATA}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clones", type=int, default=1)
    clones = parser.parse_args().clones
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print("| clone | dvc repro, seconds | again, seconds | mean average precision (macro) | base rate | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    hashes = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, clones + 1):
            one = measure(Path(folder) / str(number))
            print(f"| {number} | {one['repro']:.0f} | {one['nothing']:.1f} | {one['macro']:.3f} | {one['base']:.3f} | "
                  f"{one['macro'] / one['base']:.2f} |", flush=True)
            hashes.append(one["hashes"])
    if clones > 1:
        print(f"equal hashes of {', '.join(DATA)}: {all(one == hashes[0] for one in hashes)}")


if __name__ == "__main__":
    main()
