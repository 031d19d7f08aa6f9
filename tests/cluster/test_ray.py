"""On a real Ray cluster: what maps, crews and the data stages do there, and when nodes and drivers are killed."""

import contextlib
import dataclasses
import os
import pickle
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.cluster.conftest import ROOT, Nodes, node_of, the_node
from tests.conftest import ScriptedServer
from tests.convert.conftest import SEED
from tests.download.conftest import HOST, RUN_DOWNLOAD, Lists
from tests.faults import python
from tests.test_crew import MAKE, _broken, collect

import mlimages
from mlimages import cluster
from mlimages.acquire import acquire
from mlimages.cluster import RayCrew
from mlimages.convert import convert
from mlimages.crew import Lost
from mlimages.download import download
from mlimages.engine import map_units, open_crew
from mlimages.errors import UserError
from mlimages.params import Download, Machine, Params

pytestmark = pytest.mark.cluster
PATIENCE_SECONDS = 60.0


def wait_for(condition: Callable[[], Any]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends, "what the test waited for did not come"
        time.sleep(0.05)


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Run `action` in a thread beside the block."""
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


def where(folder: Path, unit: int) -> tuple[str, str, str]:
    """Wait for the other unit, so that neither node does both; then tell where this one runs."""
    (folder / f"met{unit}").touch()
    wait_for(lambda: len(list(folder.glob("met*"))) == 2)
    return node_of(unit), os.getcwd(), str(mlimages.__file__)


def wait_here(folder: Path, unit: int) -> int:
    """Tell that the unit has begun in this process, and end when the test says so."""
    (folder / f"{unit}.{os.getpid()}").touch()
    wait_for((folder / "go").exists)
    return unit * unit


def fail(unit: int) -> int:
    if unit == 3:
        raise UserError("no unit 3")
    if unit == 7:
        os._exit(1)
    return unit


def test_units_run_on_all_nodes_in_this_folder_with_this_code_and_those_of_a_killed_node_again(
        nodes: Nodes, on_ray: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    second = nodes.add()
    found = list(map_units(partial(where, tmp_path), range(2), machine=on_ray, ahead=1))
    assert len({node for node, *_ in found}) == 2
    assert {(folder, code) for _, folder, code in found} == {(str(tmp_path), mlimages.__file__)}

    def kill() -> None:
        wait_for(lambda: len(list(tmp_path.glob("[01].*"))) == 2)
        nodes.kill(second)
        (tmp_path / "go").touch()

    with meanwhile(kill):
        assert list(map_units(partial(wait_here, tmp_path), range(3), machine=on_ray, ahead=1)) == [0, 1, 4]
    assert len(list(tmp_path.glob("*.*"))) == 4, "the lost unit, and no other, began twice"


def test_an_error_on_the_cluster_is_raised_as_itself_and_a_unit_that_always_kills_is_named(
        on_ray: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "RETRIES", 1)
    with pytest.raises(UserError) as raised:
        list(map_units(fail, range(5), machine=on_ray, ahead=1))
    assert str(raised.value) == "no unit 3"
    with pytest.raises(UserError, match="7 was not done .* with 1 retries .* run the same command again"):
        list(map_units(fail, [7], machine=on_ray, ahead=1))


def test_a_crew_on_the_cluster_returns_raises_and_replaces_like_one_here(on_ray: Machine) -> None:
    with open_crew(MAKE, dataclasses.replace(on_ray, workers=1)) as crew:
        for number in range(40):
            crew.send(0, number)
        assert sorted(collect(crew, 40)) == [(0, number * number) for number in range(40)]
        crew.send(0, "die")
        assert collect(crew, 1) == [(0, Lost(None))]
        crew.send(0, "sleep")
        crew.receive(0.1)
        crew.kill(0)
        assert collect(crew, 1) == [(0, Lost(None))]
        crew.send(0, "pid")
        [(_, pid)] = collect(crew, 1)
        crew.send(0, "raise")
        with pytest.raises(UserError, match="no square"):
            collect(crew, 1)
    wait_for(lambda: not psutil.pid_exists(pid))


def nodes_of_a_crew(machine: Machine) -> list[str]:
    """The node of each worker of a crew just begun, by worker."""
    with open_crew(the_node, machine) as crew:
        for worker in range(machine.workers):
            crew.send(worker, 0)
        return [node for _, node in sorted(collect(crew, machine.workers))]


def test_a_crew_has_workers_on_every_node_and_none_on_one_that_died_as_they_began(
        nodes: Nodes, on_ray: Machine) -> None:
    second = nodes.add()
    for _ in range(3):
        assert len(set(nodes_of_a_crew(on_ray))) == 2
    nodes.kill(second)  # Ray takes it for alive for some seconds more
    assert len(set(nodes_of_a_crew(on_ray))) == 1


def test_a_worker_that_cannot_begin_on_the_cluster_is_an_error_and_no_endless_restart(
        on_ray: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "STARTS", 1)
    with (pytest.raises(UserError, match="ended 1 times before it could work"),
          open_crew(_broken, dataclasses.replace(on_ray, workers=1))):
        pytest.fail("it began")


def published(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def a_node_less(nodes: Nodes, folder: Path, pattern: str) -> Iterator[None]:
    """Beside the block, a second node is killed once there is a file like that."""
    second = nodes.add()

    def kill() -> None:
        wait_for(lambda: list(folder.glob(pattern)))
        nodes.kill(second)

    with meanwhile(kill):
        yield


@pytest.fixture
def patient(tiny_params: Params) -> Download:
    """A download that takes longer than it takes to kill a node."""
    return dataclasses.replace(tiny_params.download, rate_per_host=4.0)


def test_download_and_convert_publish_the_same_bytes_though_a_node_is_killed_on_the_way(
        nodes: Nodes, on_ray: Machine, patient: Download, tiny_params: Params, machine: Machine, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    lost, take = [], RayCrew._take

    def noted(crew: RayCrew, worker: int) -> list[Any] | Lost:
        taken = take(crew, worker)
        lost.extend([taken] if isinstance(taken, Lost) else [])
        return taken

    monkeypatch.setattr(RayCrew, "_take", noted)
    demo = dataclasses.replace(tiny_params.acquire.demo, seed=SEED)
    lists = acquire(dataclasses.replace(tiny_params.acquire, demo=demo), machine, out=tmp_path / "lists")
    images, records = ([tmp_path / f"{what}_{where}" for where in ("here", "there")] for what in ("images", "records"))
    download(patient, machine, lists=lists, out=images[0])
    with a_node_less(nodes, Path(on_ray.scratch), "download/*/spools/*.spool"):
        download(patient, on_ray, lists=lists, out=images[1])
    assert set(lost) == {Lost(None, with_node=True)}
    assert published(images[1]) == published(images[0])

    params = dataclasses.replace(tiny_params.convert, imagenet=str(lists / "imagenet.tar"), train_shards=8)
    convert(params, machine, lists=lists, images=images[0], out=records[0])
    with a_node_less(nodes, Path(on_ray.scratch), "convert/*/notes/*.json"):
        convert(params, on_ray, lists=lists, images=images[0], out=records[1])
    assert published(records[1]) == published(records[0])


def test_a_host_sees_no_more_connections_of_the_whole_cluster_than_of_one_machine(
        nodes: Nodes, on_ray: Machine, tiny_params: Params, server: ScriptedServer, jpeg: bytes, lists_of: Lists,
        tmp_path: Path) -> None:
    """Eight threads, half of them on each of two nodes, and a host that must be asked three at a time."""
    second = nodes.add()
    for number in range(40):
        server.on(f"/{number}.jpg", body=jpeg, drip_seconds=0.0002)  # so slowly that requests meet
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
