"""Published bytes are the same in every process, folder, time zone and language."""

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults import environment

from mlimages.core.params import Machine, Params

# Lists, images and records of a demo, with pictures in its ImageNet archive that cannot be decoded.
RUN_STAGES = """
import dataclasses, pickle, sys, tarfile
from pathlib import Path
from mlimages.acquire.run import acquire
from mlimages.convert.run import convert
from mlimages.download.run import download

params, machine = pickle.loads(bytes.fromhex(sys.argv[1]))
acquire(params.acquire, machine, out="lists")
download(params.download, machine, lists="lists", out="images")
with tarfile.open("lists/imagenet.tar") as outer:
    outer.extractall("classes", filter="data")
for classes in Path("classes").glob("*.tar"):
    with tarfile.open(classes) as inner:
        inner.extractall(Path("imagenet") / classes.stem, filter="data")
pictures = sorted(Path("imagenet").glob("*/*"))
whole = pictures[0].read_bytes()
for path, body in zip(pictures[::3], [b"<html>", b"", whole[:-2], whole[:-2] + bytes(9), b"\\xff\\xd8\\xff", whole[:99],
                                      b"\\x89PNG\\r\\n\\x1a\\n", b"GIF89a", b"RIFF....WEBPVP8 ", b"II*\\0"]):
    path.write_bytes(body)
archive = dataclasses.replace(params.convert, imagenet=str(Path("imagenet").absolute()))
convert(archive, machine, lists="lists", images="images", out="records")
"""
PUBLISHED = ("lists", "images", "records")


def published(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for name in PUBLISHED for path in sorted((folder / name).rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_every_stage_publishes_the_same_bytes_wherever_it_runs(tiny_params: Params, machine: Machine,
                                                               tmp_path: Path) -> None:
    """The stages up to the records; what training publishes depends on the processor."""
    surroundings = {
        "a": {"PYTHONHASHSEED": "1", "TZ": "Asia/Kolkata", "LC_ALL": "C", "PYTHONUTF8": "0",
              "PYTHONCOERCECLOCALE": "0"},
        "another folder, with \u00e9": {"PYTHONHASHSEED": "2", "TZ": "America/Caracas", "LC_ALL": "C.UTF-8"}}
    found = []
    for name, variables in surroundings.items():
        folder = tmp_path / name
        folder.mkdir()
        task = pickle.dumps([tiny_params, dataclasses.replace(machine, scratch="scratch")]).hex()
        subprocess.run([sys.executable, "-c", RUN_STAGES, task], cwd=folder, check=True,
                       env={**environment(), **variables})
        found.append(published(folder))
    first, second = found
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []
    failures = first["records/failures.csv"].decode().splitlines()
    assert len(failures) > 10
    assert not [line for line in failures if " at 0x" in line or str(tmp_path) in line]
