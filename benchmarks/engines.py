"""Measure download and convert on a Ray cluster against local processes and threads, on the same cores.

    python benchmarks/engines.py --photos FOLDER     # without --photos, drawn pictures; needs nginx and Ray

The commands run in turn. The time until the first unit begins is printed separately, as it does not depend on the
number of units.
"""

import argparse
import dataclasses
import operator
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts import nginx
from photographs import photographs

from convert import make_inputs
from download import lists_of
from mlimages.core.params import load

ROOT = Path(__file__).parents[1]
PARAMS = load(ROOT / "params.yaml")
SHARDS = 100
RUN = """
import importlib, pickle, sys
call, params, machine, folders = pickle.loads(bytes.fromhex(sys.argv[1]))
getattr(importlib.import_module(f"mlimages.{call}"), call)(params, machine, **folders)
"""
BEGUN = {"download": "download/*/spools/*.spool", "convert": "convert/*/out/.*.partial"}


@contextmanager
def ray_cluster(cores: int) -> Iterator[str]:
    """Run a cluster of one node, whose workers have the priority of local ones. Yields its address."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores, "include_dashboard": False})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def measure(call: str, params: Any, machine: Any, **folders: Path) -> tuple[float, float]:
    """Run a command. Returns the seconds until its first unit begins, and from then to its end."""
    out = Path(tempfile.mkdtemp(dir=folders["lists"].parent))
    machine = dataclasses.replace(machine, scratch=str(out / "scratch"))
    given = pickle.dumps((call, params, machine, {**folders, "out": out / "published"})).hex()
    began, first = time.monotonic(), None
    with (out / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", RUN, given], stdout=log, stderr=log,
                                   env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
        while process.poll() is None:
            if first is None and next((out / "scratch").glob(BEGUN[call]), None):
                first = time.monotonic()
            time.sleep(0.02)
    assert process.returncode == 0 and first is not None, (out / "log").read_text()[-3000:]
    return first - began, time.monotonic() - first


def compare(folder: Path, options: argparse.Namespace) -> None:
    cores = os.cpu_count() or 1
    photographs(folder / "photos", options.photos, 2000)
    make_inputs(folder / "records", folder / "photos", options.images)
    urls = lists_of(folder / "urls", [f"http://images.example/{number % 2000}.jpg?{number}"
                                      for number in range(options.images)])
    with nginx(folder / "photos", folder / "nginx") as port, ray_cluster(cores) as address:
        local = dataclasses.replace(PARAMS.machine, workers=cores, progress_seconds=60.0,
                                    connect_to={"images.example:80": f"127.0.0.1:{port}"})
        machines = {"local": local, "ray": dataclasses.replace(local, engine="ray", ray_address=address)}
        calls: dict[str, tuple[Any, dict[str, Path]]] = {
            "download": (dataclasses.replace(PARAMS.download, images_per_shard=options.images // SHARDS,
                                             rate_per_host=100_000.0, connections_per_host=32), {"lists": urls}),
            "convert": (dataclasses.replace(PARAMS.convert, imagenet=None, train_shards=SHARDS),
                        {"lists": folder / "records/lists", "images": folder / "records/images"})}
        print(f"\n{options.images:,} images in {SHARDS} units, medians of {options.rounds} rounds\n\n"
              f"| | engine | seconds before the first unit | images/s after that | of local | with the start |\n"
              f"| --- | --- | --- | --- | --- | --- |")
        for call, (params, folders) in calls.items():
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in machines}
            for _ in range(options.rounds):
                for name, machine in machines.items():
                    found[name].append(measure(call, params, machine, **folders))
            start, rest, both = ({name: statistics.median(map(seconds, runs)) for name, runs in found.items()}
                                 for seconds in (operator.itemgetter(0), operator.itemgetter(1), sum))
            for name in machines:
                print(f"| {call} | {name} | {start[name]:.1f} | {options.images / rest[name]:,.0f} "
                      f"| {rest['local'] / rest[name]:.2f} | {both['local'] / both[name]:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, help="a folder of photographs to cut the pictures from")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # for nginx, which may run as another user
        compare(Path(folder), options)


if __name__ == "__main__":
    main()
