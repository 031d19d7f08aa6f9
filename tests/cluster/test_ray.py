"""The data stages on a real Ray cluster, also when nodes and drivers are killed."""

import contextlib
import dataclasses
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.cluster.conftest import PATIENCE_SECONDS, ROOT, Nodes, meanwhile, wait_for
from tests.conftest import ScriptedServer
from tests.convert.conftest import SEED, SmallDemo
from tests.convert.test_faults import RUN_CONVERT
from tests.download.conftest import HOST, RUN_DOWNLOAD, Lists
from tests.faults import environment, python

from mlimages.acquire.run import acquire
from mlimages.convert.run import convert
from mlimages.core.params import Convert, Download, Machine, Params
from mlimages.core.ray_backend import RayWorkerPool
from mlimages.core.worker_pool import LostWorker
from mlimages.download.run import download

pytestmark = pytest.mark.cluster


def published(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def a_node_less(nodes: Nodes, folder: Path, pattern: str) -> Iterator[None]:
    """While the block runs, kill a second node once a file with this pattern exists."""
    second = nodes.add()

    def kill() -> None:
        wait_for(lambda: list(folder.glob(pattern)))
        nodes.kill(second)

    with meanwhile(kill):
        yield


@pytest.fixture
def patient(tiny_params: Params) -> Download:
    """A download that takes longer than killing a node."""
    return dataclasses.replace(tiny_params.download, rate_per_host=4.0)


def test_download_and_convert_publish_the_same_bytes_though_a_node_is_killed_on_the_way(
        nodes: Nodes, on_ray: Machine, patient: Download, tiny_params: Params, machine: Machine, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    lost, take = [], RayWorkerPool._take

    def noted(pool: RayWorkerPool, worker: int) -> list[Any] | LostWorker:
        taken = take(pool, worker)
        lost.extend([taken] if isinstance(taken, LostWorker) else [])
        return taken

    monkeypatch.setattr(RayWorkerPool, "_take", noted)
    demo = dataclasses.replace(tiny_params.acquire.demo, seed=SEED)
    lists = acquire(dataclasses.replace(tiny_params.acquire, demo=demo), machine, out=tmp_path / "lists")
    images, records = ([tmp_path / f"{what}_{where}" for where in ("here", "there")] for what in ("images", "records"))
    download(patient, machine, lists=lists, out=images[0])
    with a_node_less(nodes, Path(on_ray.scratch), "download/*/spools/*.spool"):
        download(patient, on_ray, lists=lists, out=images[1])
    assert set(lost) == {LostWorker(None, with_node=True)}
    assert published(images[1]) == published(images[0])

    params = dataclasses.replace(tiny_params.convert, imagenet=str(lists / "imagenet.tar"), train_shards=8)
    convert(params, machine, lists=lists, images=images[0], out=records[0])
    with a_node_less(nodes, Path(on_ray.scratch), "convert/*/notes/*.json"):
        convert(params, on_ray, lists=lists, images=images[0], out=records[1])
    assert published(records[1]) == published(records[0])


def test_a_host_sees_no_more_connections_of_the_whole_cluster_than_of_one_machine(
        nodes: Nodes, on_ray: Machine, tiny_params: Params, server: ScriptedServer, jpeg: bytes, lists_of: Lists,
        tmp_path: Path) -> None:
    """Two nodes have four threads each, and a host allows three connections."""
    second = nodes.add()
    for number in range(40):
        server.on(f"/{number}.jpg", body=jpeg, drip_seconds=0.0002)  # so slowly that requests overlap
    lists = lists_of([f"{HOST}/{number}.jpg" for number in range(40)], [f"{HOST}/0.jpg"])
    params = dataclasses.replace(tiny_params.download, connections_per_host=3, rate_per_host=100.0)
    machine = dataclasses.replace(on_ray, connect_to=server.connect_to("images.example"))
    download(params, machine, lists=lists, out=tmp_path / "images")
    nodes.kill(second)
    assert sum(server.requests.values()) >= 40
    assert server.most_requests["images.example"] == 3


def test_a_download_whose_driver_was_killed_goes_on_and_nothing_of_the_dead_one_works_on(
        on_ray: Machine, patient: Download, tiny_lists: Path, machine: Machine, tmp_path: Path) -> None:
    """The driver runs the code of a copy of the repository, as `dvc exp run --temp` does."""
    alone, copy, out = dataclasses.replace(on_ray, workers=1), tmp_path / "copy", tmp_path / "images"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    driver = subprocess.Popen(python(RUN_DOWNLOAD, pickle.dumps((patient, alone, tiny_lists, out)).hex()), cwd=copy,
                              env={**os.environ, "PYTHONPATH": str(copy / "src")}, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("ray/download/*/spools/*.spool")))
    [worker] = [process for process in psutil.process_iter(["cwd"])
                if process.info["cwd"] == str(copy) and process.pid != driver.pid]
    assert worker.environ()["PYTHONPATH"].split(os.pathsep)[0] == str(copy / "src")
    driver.kill()
    driver.wait()
    worker.wait(PATIENCE_SECONDS)
    assert not out.exists()
    download(patient, alone, lists=tiny_lists, out=out)
    download(patient, machine, lists=tiny_lists, out=tmp_path / "here")
    assert published(out) == published(tmp_path / "here")


def test_a_conversion_whose_driver_was_killed_goes_on(on_ray: Machine, machine: Machine, small_demo: SmallDemo,
                                                      small_convert: Convert, tmp_path: Path) -> None:
    alone, out = dataclasses.replace(on_ray, workers=1), tmp_path / "records"
    driver = subprocess.Popen(
        python(RUN_CONVERT, pickle.dumps((small_convert, alone, small_demo.lists, small_demo.images, out)).hex()),
        env=environment(), stderr=subprocess.DEVNULL)
    notes = Path(alone.scratch) / "convert"
    wait_for(lambda: list(notes.glob("*/notes/*.json")))
    driver.kill()
    driver.wait()
    assert not out.exists()
    finished = [path.parents[1] / "out" / path.stem for path in notes.glob("*/notes/*.json")]
    written = {path.name: path.stat().st_mtime_ns for path in finished}
    folders = {"lists": small_demo.lists, "images": small_demo.images}
    convert(small_convert, alone, out=out, **folders)
    assert {name: (out / name).stat().st_mtime_ns for name in written} == written, "what was finished was made again"
    convert(small_convert, machine, out=tmp_path / "here", **folders)
    assert published(out) == published(tmp_path / "here")
