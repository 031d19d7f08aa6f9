"""Measure acquire and the plan of a download on a list as long as the released one: speed and memory.

    python benchmarks/lists.py                 # 6,902,811 lines in the released format; about 5 minutes
    python benchmarks/lists.py --lines 300000
    python benchmarks/lists.py --dictionary dictionary_and_semantic_hierarchy.txt
"""

import argparse
import dataclasses
import os
import platform
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from new_process import in_new_process

from mlimages.acquire.formats import DICTIONARY, line_offsets, list_file, read_list
from mlimages.acquire.hierarchy import read_tree
from mlimages.acquire.run import acquire
from mlimages.core.params import load
from mlimages.core.publish import read_manifest
from mlimages.download.plan import Plan

ROOT = Path(__file__).parents[1]
TRAIN, VAL = list_file("train", "openimages"), list_file("val", "openimages")
RELEASED_LINES, RELEASED_VAL_LINES, RELEASED_CLASSES = 6_902_811, 38_739, 11_166
CONFIDENCES = ("1", "1.0", "0.9", "0.8")
LABELS = range(2, 17)  # of a line, nine on average
REPEATED_EVERY = 10_000
LINES_PER_SHARD = 10_000


def write_dictionary(path: Path) -> None:
    rng = random.Random(0)  # noqa: S311 - no cryptography
    with path.open("w", encoding="utf-8") as file:
        file.write("category_index\tcategory_id\tindex_of_parent_category\tcategory name\n")
        for index in range(RELEASED_CLASSES):
            parent = -1 if index < 4 else rng.randrange(index // 8, index // 2)
            file.write(f"{index}\tn{index:08d}\t{parent}\tclass {index}\n")


def list_lines(seed: int, lines: int, classes: int) -> Iterator[str]:
    """Yield lines in the released format, with unsorted classes. Every REPEATED_EVERY-th line repeats a URL."""
    rng = random.Random(seed)  # noqa: S311
    pairs = [f"\t{index}:{confidence}" for index in range(classes) for confidence in CONFIDENCES]
    for number in range(lines):
        image = number // 2 if number % REPEATED_EVERY == REPEATED_EVERY - 1 else number
        yield (f"https://c{1 + image % 8}.staticflickr.com/{image % 9}/{image % 8999}/{image:010d}_{image * 7919:010x}"
               f"_o.jpg{''.join(rng.choices(pairs, k=rng.choice(LABELS)))}\n")


def measure(folder: str) -> dict[str, float]:
    """Run acquire. Returns its seconds, and its peak bytes above the imports."""
    params = load(ROOT / "params.yaml")
    source = dataclasses.replace(params.acquire, source="folder", folder=f"{folder}/raw")
    machine = dataclasses.replace(params.machine, scratch=f"{folder}/scratch", progress_seconds=60.0)
    imports = resident_bytes()
    began = time.monotonic()
    acquire(source, machine, out=f"{folder}/lists")
    return {"seconds": time.monotonic() - began, "bytes": most_bytes() - imports}


def measure_planning(folder: str) -> dict[str, float]:
    """Plan a download. Returns the seconds, the peak bytes above the imports, and the number of lines."""
    params = dataclasses.replace(load(ROOT / "params.yaml").download, images_per_shard=LINES_PER_SHARD)
    lists, work = Path(folder) / "lists", Path(folder) / "work"
    work.mkdir()
    imports = resident_bytes()
    began = time.monotonic()
    plan = Plan(work, lists, read_manifest(lists, "acquire"), params)
    left = plan.remaining().lines
    plan.request(plan.todo[0])
    return {"seconds": time.monotonic() - began, "bytes": most_bytes() - imports, "lines": left}


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def most_bytes() -> int:
    """The peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_reading(folder: str) -> dict[str, float]:
    """Read the published list. Returns the seconds for that, and for finding the lines at which shards begin."""
    path = Path(folder) / "lists" / TRAIN
    classes = len(read_tree(path.with_name(DICTIONARY)))
    began = time.monotonic()
    for _ in read_list(path, "openimages", classes):
        pass
    read = time.monotonic() - began
    list(line_offsets(path, LINES_PER_SHARD))
    return {"read": read, "offsets": time.monotonic() - began - read}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=RELEASED_LINES)
    parser.add_argument("--dictionary", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        if options.dictionary:
            shutil.copyfile(options.dictionary, raw / DICTIONARY)
        else:
            write_dictionary(raw / DICTIONARY)
        classes = len(read_tree(raw / DICTIONARY))
        for seed, (name, lines) in enumerate(((TRAIN, options.lines), (VAL, RELEASED_VAL_LINES))):
            with (raw / name).open("w", encoding="ascii") as file:
                file.writelines(list_lines(seed, lines, classes))
        mebibytes = (raw / TRAIN).stat().st_size / 2**20
        whole, reading, planning = (in_new_process(function, folder)
                                    for function in (measure, measure_reading, measure_planning))
    lines = options.lines + RELEASED_VAL_LINES
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; {lines:,} lines, "
          f"{mebibytes:,.0f} MiB, {classes:,} classes")
    print("| what | seconds | lines/s | MiB above the imports |\n| --- | --- | --- | --- |")
    print(f"| acquire | {whole['seconds']:.0f} | {lines / whole['seconds']:,.0f} | {whole['bytes'] / 2**20:.0f} |")
    print(f"| read a published list | {reading['read']:.0f} | {options.lines / reading['read']:,.0f} | |")
    print(f"| find its shards | {reading['offsets']:.1f} | {options.lines / reading['offsets']:,.0f} | |")
    print(f"| plan the download of both lists | {planning['seconds']:.1f} | "
          f"{planning['lines'] / planning['seconds']:,.0f} | {planning['bytes'] / 2**20:.0f} |")


if __name__ == "__main__":
    main()
