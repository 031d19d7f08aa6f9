"""Maps and worker pools on a real Ray cluster, also when nodes are killed."""

import dataclasses
import os
import pickle
import socket
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from tests.cluster.conftest import PATIENCE_SECONDS, Nodes, meanwhile, node_of, the_node, wait_for
from tests.core.test_worker_pool import MAKE, _broken, collect
from tests.faults import python, run

import mlimages
from mlimages.core import ray_backend
from mlimages.core.errors import UserError
from mlimages.core.parallel import map_units, open_worker_pool
from mlimages.core.params import Machine, Params
from mlimages.core.worker_pool import LostWorker

pytestmark = pytest.mark.cluster


def where(folder: Path, unit: int) -> tuple[str, str, str]:
    """Wait for the other unit, so that no node runs both. Returns the node of this one."""
    (folder / f"met{unit}").touch()
    wait_for(lambda: len(list(folder.glob("met*"))) == 2)
    return node_of(unit), os.getcwd(), str(mlimages.__file__)


def wait_here(folder: Path, unit: int) -> int:
    """Report that the unit has started in this process, and end when the test allows it."""
    (folder / f"{unit}.{os.getpid()}").touch()
    wait_for((folder / "go").exists)
    return unit * unit


class Holder:
    """An actor that occupies a core."""

    def hold(self) -> None:
        """Return once it runs."""


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


# In a process of its own, which has no cluster yet.
PRIORITY = """
import os, pickle, sys
from mlimages.core.parallel import map_units
print(*map_units(os.nice, [0], machine=pickle.loads(bytes.fromhex(sys.argv[1])), ahead=1))
"""


def test_workers_of_a_cluster_that_starts_here_have_the_priority_of_this_process(tiny_params: Params) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-ray.txt")
    own = dataclasses.replace(tiny_params.machine, engine="ray", ray_address="local", workers=1)
    ended = run(python(PRIORITY, pickle.dumps(own).hex()))
    assert ended.stdout.split() == [str(os.nice(0))], ended.stderr


def test_an_error_on_the_cluster_is_raised_as_itself_and_a_unit_that_always_kills_is_named(
        on_ray: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_backend, "RETRIES", 1)
    with pytest.raises(UserError) as raised:
        list(map_units(fail, range(5), machine=on_ray, ahead=1))
    assert str(raised.value) == "no unit 3"
    with pytest.raises(UserError, match="did not finish 7, with 1 retries .* run the same command again"):
        list(map_units(fail, [7], machine=on_ray, ahead=1))


def test_a_cluster_without_a_free_core_is_not_waited_for_without_end(on_ray: Machine, monkeypatch: pytest.MonkeyPatch,
                                                                     ) -> None:
    import ray

    monkeypatch.setattr(ray_backend, "START_SECONDS", 2.0)
    holder = ray.remote(num_cpus=1)(Holder).remote()
    ray.get(holder.hold.remote())
    with pytest.raises(UserError, match="none of the 1 CPUs of the Ray cluster became free in 2 s"):
        list(map_units(node_of, [0], machine=on_ray, ahead=1))
    ray.kill(holder)
    monkeypatch.setattr(ray_backend, "START_SECONDS", PATIENCE_SECONDS)
    assert list(map_units(node_of, [0], machine=on_ray, ahead=1)) == [node_of(0)]


def test_a_pool_on_the_cluster_returns_raises_and_replaces_like_a_local_one(on_ray: Machine) -> None:
    with open_worker_pool(MAKE, dataclasses.replace(on_ray, workers=1)) as pool:
        for number in range(40):
            pool.send(0, number)
        assert sorted(collect(pool, 40)) == [(0, number * number) for number in range(40)]
        pool.send(0, "die")
        assert collect(pool, 1) == [(0, LostWorker(None))]
        pool.send(0, "sleep")
        pool.receive(0.1)
        pool.kill(0)
        assert collect(pool, 1) == [(0, LostWorker(None))]
        pool.send(0, "pid")
        [(_, pid)] = collect(pool, 1)
        pool.send(0, "raise")
        with pytest.raises(UserError, match="no square"):
            collect(pool, 1)
    wait_for(lambda: not psutil.pid_exists(pid))


def nodes_of_a_pool(machine: Machine) -> list[str]:
    """The node of each worker of a pool just begun, by worker; no pipe to one on this node goes over TCP."""
    with open_worker_pool(the_node, machine) as pool:
        for worker in range(machine.workers):
            pool.send(worker, 0)
        found = [node for _, node in sorted(collect(pool, machine.workers))]
        assert [_is_near(pipe) for pipe in pool._pipes] == [node == node_of(0) for node in found]
        return found


def _is_near(pipe: Connection) -> bool:
    with socket.socket(fileno=os.dup(pipe.fileno())) as same:
        return same.family == socket.AF_UNIX


def test_a_pool_has_workers_on_every_live_node(
        nodes: Nodes, on_ray: Machine) -> None:
    second = nodes.add()
    for _ in range(3):
        assert len(set(nodes_of_a_pool(on_ray))) == 2
    nodes.kill(second)  # Ray takes it for alive for some seconds more
    assert len(set(nodes_of_a_pool(on_ray))) == 1


def test_a_worker_that_cannot_begin_on_the_cluster_is_an_error_and_no_endless_restart(
        on_ray: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_backend, "START_ATTEMPTS", 1)
    with (pytest.raises(UserError, match="ended 1 times before it could work"),
          open_worker_pool(_broken, dataclasses.replace(on_ray, workers=1))):
        pytest.fail("it began")
