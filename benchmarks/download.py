"""Measure the stage download against img2dataset and a plain pool of requests, on the same machine.

    python benchmarks/download.py throughput --photos FOLDER --img2dataset OTHER/bin/img2dataset
    python benchmarks/download.py latency polite scale
    python benchmarks/download.py grown --images 50000

img2dataset lives in an environment of its own. Without --photos the pictures are drawn; a photograph's worth of bytes
comes from noise on them. Needs nginx for `throughput`, `scale` and `grown`.
"""

import argparse
import compileall
import dataclasses
import json
import os
import pickle
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import requests
from hosts import nginx, strict
from photographs import photographs

from mlimages.acquire.formats import DICTIONARY, LISTS
from mlimages.acquire.run import acquire
from mlimages.core.params import load
from mlimages.core.publish import fsync
from mlimages.demo import world

ROOT = Path(__file__).parents[1]
PARAMS = load(ROOT / "params.yaml")
OURS = """
import pickle, sys
from mlimages.download.run import download
params, machine, lists, out = pickle.loads(bytes.fromhex(sys.argv[1]))
download(params, machine, lists=lists, out=out)
"""
PLAIN = """
import sys, requests, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
urls, out, local = Path(sys.argv[1]).read_text().split(), Path(sys.argv[2]), threading.local()
out.mkdir()
def fetch(number):
    if not hasattr(local, "session"): local.session = requests.Session()
    (out / f"{number}.jpg").write_bytes(local.session.get(urls[number], timeout=10).content)
with ThreadPoolExecutor(32) as pool: list(pool.map(fetch, range(len(urls))))
"""


def lists_of(folder: Path, urls: list[str]) -> Path:
    """Publish lists with these training URLs, as acquire does."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    (raw / DICTIONARY).write_text("index\tid\tparent\tname\n0\tn00000001\t-1\tthing\n")
    for one in LISTS:
        source = ("http://images.example/0.jpg" if one.origin == "openimages" else "n00000001/n00000001_1.JPEG")
        lines = urls if (one.part, one.origin) == ("train", "openimages") else [source]
        (raw / one.name).write_text("".join(f"{line}\t0:1\n" for line in lines))
    params = dataclasses.replace(PARAMS.acquire, source="folder", folder=str(raw))
    return acquire(params, dataclasses.replace(PARAMS.machine, scratch=str(folder / "scratch")), out=folder / "lists")


def ours(folder: Path, lists: Path, ports: dict[str, int], *, threads: int = 16, **changes: Any) -> list[str]:
    """The command that downloads the lists. `ports` are the ports of the hosts on the loopback address."""
    params = dataclasses.replace(PARAMS.download, **{"images_per_shard": 1000, "rate_per_host": 100_000.0, **changes})
    connect_to = {f"{host}:80": f"127.0.0.1:{port}" for host, port in ports.items()}
    machine = dataclasses.replace(PARAMS.machine, scratch=str(folder / "scratch"), connect_to=connect_to,
                                  threads=threads, workers=os.cpu_count() or 1)
    return [sys.executable, "-c", OURS, pickle.dumps([params, machine, lists, folder / "images"]).hex()]


@dataclasses.dataclass
class Measured:
    """The time and memory of a command. `peak_bytes` is the highest sum of the resident memory of its processes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(command: list[str]) -> Measured:
    os.sync()  # what an earlier command wrote would slow this one's disk
    before, begun, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors: list[bytes] = []
    assert process.stderr
    threading.Thread(target=lambda pipe: errors.append(pipe.read()), args=(process.stderr,), daemon=True).start()
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(b"".join(errors).decode()[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Measured(time.monotonic() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak)


def _resident(pid: int) -> int:
    try:
        parent = psutil.Process(pid)
        return sum(one.memory_info().rss for one in [parent, *parent.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


def throughput(folder: Path, options: argparse.Namespace) -> None:
    """Print images per second and CPU seconds of whole commands, with their start: medians of rounds in turn."""
    photographs(folder / "photos", options.photos, options.images)
    sizes = [path.stat().st_size for path in (folder / "photos").iterdir()]
    print(f"\n{len(sizes)} JPEGs of {sum(sizes) / len(sizes) / 1000:.1f} kB from nginx on the loopback, medians of "
          f"{options.rounds} rounds\n")
    found: dict[str, list[Measured]] = {}
    with nginx(folder / "photos", folder / "nginx") as port:
        direct = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(options.images)]
        (folder / "urls.txt").write_text("".join(f"{url}\n" for url in direct))
        (folder / "url_list.txt").write_text("url\n" + "".join(f"{url}\n" for url in direct))
        lists = lists_of(folder, [f"http://images.example/{number}.jpg" for number in range(options.images)])
        for number in range(options.rounds):
            out = folder / f"round{number}"
            out.mkdir()
            for name, command in rivals(folder, out, lists, port, options.img2dataset).items():
                found.setdefault(name, []).append(measure(command))
                check(out, options.images)
            shutil.rmtree(out)
    print("| | images/s | times img2dataset | CPU s per 1,000 images | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, rounds in found.items():
        seconds, cpu, peak = (statistics.median(values) for values in zip(*(
            (one.seconds, one.cpu_seconds, one.peak_bytes) for one in rounds), strict=True))
        times = ""
        if rival := name.startswith("ours") and found.get(name.replace("ours", "img2dataset")):
            ratios = [its.seconds / own.seconds for own, its in zip(rounds, rival, strict=True)]
            times = f"{statistics.median(ratios):.2f}"
        print(f"| {name} | {options.images / seconds:,.0f} | {times} | {1000 * cpu / options.images:.2f} | "
              f"{peak / 1e6:,.0f} |", flush=True)


def rivals(folder: Path, out: Path, lists: Path, port: int, img2dataset: str | None) -> dict[str, list[str]]:
    """The commands to compare, by name. They write to folders in `out`."""
    commands = {"a pool of 32 threads of requests.get, without checks":
                [sys.executable, "-c", PLAIN, str(folder / "urls.txt"), str(out / "plain")]}
    for name, resize, shorter_side in (("", "no", None), (", shorter side 256", "keep_ratio", 256)):
        if img2dataset:
            commands[f"img2dataset, tar shards{name}"] = [
                img2dataset, f"--url_list={folder}/url_list.txt", "--input_format=csv", "--url_col=url",
                f"--output_folder={out}/i2d{resize}", f"--processes_count={os.cpu_count()}", "--thread_count=32",
                f"--resize_mode={resize}", "--image_size=256", "--resize_only_if_bigger=True",
                "--encode_quality=90", "--output_format=webdataset", "--number_sample_per_shard=1000",
                "--enable_wandb=False"]
        commands[f"ours, tar shards{name}"] = ours(out / f"ours{resize}", lists, {"images.example": port},
                                                   connections_per_host=32, shorter_side=shorter_side)
    return commands


def check(folder: Path, expected: int) -> None:
    """Exit if the newest folder in `folder` has fewer pictures than expected, as after a command that failed early."""
    out = max((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    found = 0
    for tar in out.rglob("*.tar"):
        with tarfile.open(tar) as members:
            found += sum(name.endswith(".jpg") for name in members.getnames())
    found += len(list(out.glob("*.jpg")))
    if found < expected:
        sys.exit(f"{out} has {found} pictures, expected {expected}")


def latency(folder: Path, options: argparse.Namespace) -> None:
    """Print images per second from a host with 100 ms of latency, and their share of connections / latency."""
    photographs(folder / "photos", options.photos, 1, 10_000)
    print("\n| connections | images/s with 100 ms of latency | share of connections / latency |\n| --- | --- | --- |")
    with strict(folder / "photos" / "0.jpg", delay_seconds=0.1) as port:
        for connections in (8, 16, 32, 64):
            count = connections * 150
            place = folder / f"latency{connections}"
            lists = lists_of(place, [f"http://images.example/{number}.jpg" for number in range(count)])
            before = len(counts(port)["taken"])
            measure(ours(place, lists, {"images.example": port}, threads=connections,
                         connections_per_host=connections))
            times = counts(port)["taken"][before + 1: -1]
            rate = (len(times) - 1) / (times[-1] - times[0])
            print(f"| {connections} | {rate:,.0f} | {rate * 0.1 / connections:.0%} |", flush=True)


def counts(port: int) -> dict[str, list[float]]:
    return requests.get(f"http://127.0.0.1:{port}/counts", timeout=10).json()


def polite(folder: Path, options: argparse.Namespace) -> None:
    """Print the rates at a host that accepts 20 requests per second, and at one without a limit beside it."""
    photographs(folder / "photos", options.photos, 1, 10_000)
    image, strict_urls = folder / "photos" / "0.jpg", [f"http://strict.example/{number}" for number in range(1600)]
    easy_urls = [f"http://easy.example/{number}" for number in range(15_000)]
    easy_rates = []
    for name, urls in (("alone", easy_urls), ("both", [*strict_urls, *easy_urls])):
        with strict(image, requests_per_second=20) as slow, strict(image) as easy:
            lists = lists_of(folder / name, urls)
            measure(ours(folder / name, lists, {"strict.example": slow, "easy.example": easy}, rate_per_host=200.0))
            times = counts(easy)["taken"]
            easy_rates.append(len(times) / (times[-1] - times[0]))
            seen = counts(slow)
    begun = seen["taken"][0]
    taken = [moment for moment in seen["taken"] if moment > begun + 10]
    refused = [moment for moment in seen["refused"] if moment > begun + 10]
    rate = (len(taken) - 1) / (taken[-1] - taken[0])
    print(f"\nA host that accepts 20 requests/s answered {rate:.1f}/s ({rate / 20:.0%}) and refused "
          f"{len(refused) / (len(taken) + len(refused)):.2%} of the requests after the first ten seconds; the host "
          f"beside it got {easy_rates[1]:.0f} requests/s, and {easy_rates[0]:.0f} without the strict one.")


def scale(folder: Path, options: argparse.Namespace) -> None:
    """Print the memory for few and for many lines, and the time of a second run with nothing to do."""
    photographs(folder / "photos", options.photos, 1, 1000)
    print("\n| lines | images/s | peak memory, MB | finished, run again: s |\n| --- | --- | --- | --- |")
    with nginx(folder / "photos", folder / "nginx") as port:
        for lines in (10_000, options.lines):
            place = folder / f"scale{lines}"
            made = lists_of(place, [f"http://images.example/same/{number}.jpg" for number in range(lines)])
            command = ours(place, made, {"images.example": port}, connections_per_host=32)
            first = measure(command)
            again = measure(command)
            summary = json.loads((place / "images" / "summary.json").read_text())
            if summary["images"] < lines:
                sys.exit(f"{place} has {summary['images']} pictures, expected {lines}")
            print(f"| {lines:,} | {lines / first.seconds:,.0f} | {first.peak_bytes / 1e6:,.0f} | {again.seconds:.1f} |",
                  flush=True)


def grown(folder: Path, options: argparse.Namespace) -> None:
    """A list that grew by one in a hundred, beside a download of the new lines alone and a copy of the old shards."""
    photographs(folder / "photos", options.photos, 1, 48_000)
    if options.pixels:
        [image_id] = world.image_ids(0, "benchmark", 1)
        (folder / "photos" / "0.jpg").write_bytes(world.draw(image_id, options.pixels))
    urls = [f"http://images.example/same/{number}.jpg" for number in range(options.images)]
    new = [f"http://images.example/same/new{number}.jpg" for number in range(options.images // 100)]
    mixed = [*urls, *new]
    random.Random(0).shuffle(mixed)  # noqa: S311 - an order
    with nginx(folder / "photos", folder / "nginx") as port:

        def seconds(place: str, name: str, lines: list[str]) -> float:
            lists = lists_of(folder / place / name, lines)
            taken = measure(ours(folder / place, lists, {"images.example": port}, connections_per_host=32)).seconds
            images = json.loads((folder / place / "images" / "summary.json").read_text())["images"]
            return taken if images == len(lines) + 1 else sys.exit(f"{folder / place} has {images} pictures")

        first, alone = seconds("grown", "first", urls), seconds("alone", "new", new)
        shards = sorted((folder / "grown" / "images").rglob("*.tar"))
        begun = time.monotonic()
        for shard in shards:
            target = folder / "copies" / shard.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shard, target)
            fsync(target)
        copying = time.monotonic() - begun
        appended, shuffled = seconds("grown", "appended", [*urls, *new]), seconds("grown", "shuffled", mixed)
    print(f"\n| {len(urls):,} lines, then {len(new):,} more | seconds | of both |\n| --- | --- | --- |")
    for what, taken in (("the first lines", first), ("the new lines alone", alone),
                        ("copying the first shards", copying), ("both", alone + copying),
                        ("all lines, the new ones at the end", appended), ("then in another order", shuffled)):
        print(f"| {what} | {taken:.1f} | {taken / (alone + copying):.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    kinds = {one.__name__: one for one in (throughput, latency, polite, scale, grown)}
    parser.add_argument("kinds", nargs="+", choices=kinds)
    parser.add_argument("--photos", type=Path, help="a folder of photographs to cut the pictures from")
    parser.add_argument("--img2dataset", help="the path of its program")
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3, help="with `throughput`, after each other")
    parser.add_argument("--pixels", type=int, help="with `grown`, a drawn picture of this side instead of a photograph")
    parser.add_argument("--lines", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    compileall.compile_dir(ROOT / "src", quiet=1)  # pip compiled img2dataset at its installation
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)  # noqa: S103 - nginx reads it as another user
            kinds[kind](Path(folder), options)


if __name__ == "__main__":
    main()
