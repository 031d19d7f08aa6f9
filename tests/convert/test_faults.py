"""Full and failing disks, kills and signals: no unfinished file has a final name, and the same command continues."""

import dataclasses
import os
import pickle
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import PATIENCE_SECONDS
from tests.convert.conftest import SmallDemo
from tests.faults import (
    DISK,
    assert_user_error,
    environment,
    needs_strace,
    needs_unshare,
    on_small_disk,
    python,
    with_fault,
)

from mlimages.acquire.formats import list_file, read_list
from mlimages.convert.check_records import check_shards
from mlimages.convert.run import convert
from mlimages.core.params import Convert, Machine
from mlimages.core.publish import MANIFEST, verify

NO_PREFLIGHT = "import mlimages.core.errors; mlimages.core.errors.check_space = lambda *about: None"
RUN_CONVERT = """
import pickle, sys
from mlimages.acquire.formats import list_file, read_list
from mlimages.convert.run import convert
from mlimages.core.errors import UserError
params, machine, lists, images, out = pickle.loads(bytes.fromhex(sys.argv[1]))
try:
    convert(params, machine, lists=lists, images=images, out=out)
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@pytest.fixture(scope="module")
def undisturbed(small_demo: SmallDemo, small_convert: Convert, small_machine: Callable[..., Machine],
                tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The manifest of a run without faults."""
    root = tmp_path_factory.mktemp("undisturbed")
    return (convert(small_convert, small_machine(root / "scratch"), lists=small_demo.lists, images=small_demo.images,
                    out=root / "out") / MANIFEST).read_bytes()


class Run:
    """A run of convert on the small demo in `folder`, in this process or in another one."""

    def __init__(self, folder: Path, demo: SmallDemo, params: Convert, machine: Machine) -> None:
        self.folder, self.out = folder, folder / "tfrecords"
        self._params, self._machine, self._demo = params, machine, demo

    def command(self, before: str = "") -> list[str]:
        arguments = [self._params, self._machine, self._demo.lists, self._demo.images, self.out]
        return python(before + RUN_CONVERT, pickle.dumps(arguments).hex())

    def manifest(self) -> bytes:
        """Run it in this process to its end. Returns the manifest that it publishes."""
        out = convert(self._params, self._machine, lists=self._demo.lists, images=self._demo.images, out=self.out)
        verify(out, "convert")
        return (out / MANIFEST).read_bytes()

    def no_final_name(self) -> None:
        """Assert that nothing is published, and that every shard with a note is complete and has its index."""
        assert not self.out.exists()
        for note in self.folder.glob("scratch/convert/*/notes/*.json"):
            shard = note.parents[1] / "out" / note.stem
            assert check_shards([shard], 58) > 0
            assert shard.with_name(f"{shard.name}.index").exists()


@pytest.fixture
def run(tmp_path: Path, small_demo: SmallDemo, small_convert: Convert, small_machine: Callable[..., Machine]) -> Run:
    return Run(tmp_path, small_demo, small_convert, small_machine(tmp_path / "scratch", 2))


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize(("call", "moments"), [("rename", (5,)), ("fsync", (3, 8)), ("write", (6, 30))])
def test_a_kill_at_any_call_keeps_finished_shards(run: Run, undisturbed: bytes, call: str,
                                                  moments: tuple[int, ...]) -> None:
    for nth in moments:
        assert with_fault(f"{call}:signal=KILL:when={nth}", run.command()).returncode != 0, "convert was not killed"
        run.no_final_name()
    assert run.manifest() == undisturbed


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failing_disk_is_reported_and_the_same_command_continues(run: Run, undisturbed: bytes, error: str) -> None:
    assert_user_error(with_fault(f"fsync:error={error}:when=6+", run.command()), "scratch/convert", *DISK)
    run.no_final_name()
    assert run.manifest() == undisturbed


@needs_unshare
@pytest.mark.parametrize(("limit", "before", "words"), [
    ("size=120k", "", ("converting 76 images needs about", "make room there")),
    ("size=8k", "", ("the index of", "imagenet.tar needs about 0.0 GB, but 0.0 GB")),
    ("size=32k", "", ("a table of 80 images needs about 0.0 GB, but 0.0 GB", "make room there")),
    ("size=48k", NO_PREFLIGHT, ("No space left on device", ".tfrecord", "converting 76 images needs about", *DISK)),
    ("size=4k", "", ("No space left on device", *DISK)),
    ("nr_inodes=24", "", ("No space left on device", *DISK))])
def test_a_full_disk_is_reported_and_the_same_command_continues(run: Run, undisturbed: bytes, limit: str, before: str,
                                                                words: tuple[str, ...]) -> None:
    ended = on_small_disk(run.folder / "scratch", limit, run.command(before))
    assert_user_error(ended, "scratch/convert", *words)
    assert ".partial" not in ended.stdout
    assert not run.out.exists()
    assert run.manifest() == undisturbed


@pytest.mark.parametrize("name", ["train-00001-of-00003.tfrecord", "val-00000-of-00002.tfrecord.index"])
@pytest.mark.parametrize("left", [None, b"cut"])
def test_a_finished_shard_that_was_removed_or_cut_is_written_again(run: Run, undisturbed: bytes, name: str,
                                                                   left: bytes | None) -> None:
    assert run.manifest() == undisturbed
    [path] = run.folder.glob(f"scratch/convert/*/out/{name}")
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    assert run.manifest() == undisturbed


def test_shards_of_an_earlier_run_with_another_count_are_not_published(run: Run, undisturbed: bytes) -> None:
    run.manifest()
    for path in [*run.folder.glob("scratch/convert/*/*/train-00000-of-00003*")]:
        shutil.copy(path, path.with_name(path.name.replace("-of-00003", "-of-00004")))
    assert run.manifest() == undisturbed


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_finished_shards_are_not_written_again_after_a_signal(
        tmp_path: Path, small_demo: SmallDemo, small_convert: Convert, small_machine: Callable[..., Machine],
        undisturbed: bytes, by: signal.Signals) -> None:
    folder = unpacked(small_demo.lists / "imagenet.tar", tmp_path / "imagenet")
    # A named pipe in place of a picture blocks its shard until the test writes to it.
    picture = min(path for path in folder.glob("*/*") if path.stem in listed(small_demo))
    body, changed = picture.read_bytes(), picture.parent.stat().st_mtime_ns
    picture.unlink()
    os.mkfifo(picture)
    os.utime(picture.parent, ns=(changed, changed))
    run = Run(tmp_path, small_demo, dataclasses.replace(small_convert, imagenet=str(folder)),
              small_machine(tmp_path / "scratch", 2))
    process = subprocess.Popen(run.command(), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    picture.write_bytes(body)  # for the estimate of the size of a record
    finished = wait_for_shards(run, 3)
    process.send_signal(by)
    if by is signal.SIGINT:
        picture.write_bytes(body)  # so that the threads can end
    assert process.wait(PATIENCE_SECONDS) != 0
    run.no_final_name()
    picture.unlink()
    picture.write_bytes(body)
    os.utime(picture.parent, ns=(changed, changed))
    assert run.manifest() == undisturbed
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def unpacked(tar: Path, folder: Path) -> Path:
    """Unpack ImageNet's archive into a folder of images."""
    with tarfile.open(tar) as outer:
        outer.extractall(folder, filter="data")
    for one in folder.glob("*.tar"):
        with tarfile.open(one) as inner:
            inner.extractall(folder / one.stem, filter="data")
        one.unlink()
    return folder


def listed(demo: SmallDemo) -> set[str]:
    return {Path(entry.source).stem for entry in read_list(demo.lists / list_file("train", "imagenet"), "imagenet", 58)}


def wait_for_shards(run: Run, count: int) -> dict[Path, int]:
    """Wait for `count` finished shards. Returns their modification times."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        notes = list(run.folder.glob("scratch/convert/*/notes/*.json"))
        if len(notes) >= count:
            shards = [note.parents[1] / "out" / note.stem for note in notes]
            return {shard: shard.stat().st_mtime_ns for shard in shards}
        assert time.monotonic() < ends, "the shards were not finished in time"
        time.sleep(0.02)
