"""A Ray cluster of real nodes on this machine, one core each."""

import contextlib
import dataclasses
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests import waiting
from tests.convert.conftest import small_convert, small_demo  # noqa: F401 - fixtures
from tests.training.fixtures import small_machine, small_python, small_tfrecords, small_train  # noqa: F401 - fixtures

from mlimages.core.params import Machine, Params, load
from mlimages.core.ray_backend import ray_connection

ROOT = Path(__file__).parents[2]
SYSTEM = {"health_check_period_ms": 500}  # a dead node is known after five checks

PATIENCE_SECONDS = 480.0


class Nodes:
    """The cluster. `address` is that of its head, which has one core. Tests add and kill nodes."""

    def __init__(self, cluster: Any) -> None:
        self._cluster, self.address = cluster, cluster.address

    def add(self) -> Any:
        """Start a node with one core."""
        return self._cluster.add_node(num_cpus=1)

    def kill(self, node: Any) -> None:
        """Kill all processes of a node, and first the raylet, which could report the end of the others."""
        [raylet] = node.all_processes["raylet"]
        workers = psutil.Process(raylet.process.pid).children(recursive=True)
        node.kill_raylet()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        self._cluster.remove_node(node, allow_graceful=False)


wait_for = partial(waiting.wait_for, seconds=PATIENCE_SECONDS)


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Run `action` in a thread while the block runs."""
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


def node_of(_: object) -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def the_node() -> Callable[[object], str]:
    """The work of a pool: it returns the id of its node."""
    return node_of


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-ray.txt")
    temporary = tempfile.mkdtemp(prefix="ray")  # a short path: sockets lie there
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else it would be kept in the home folder
        patch.setenv("RAY_TMPDIR", temporary)  # else /tmp/ray, which another cluster of this machine may use
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True,
                          head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": SYSTEM})
        try:
            with ray_connection(dataclasses.replace(load(ROOT / "params.yaml").machine, ray_address=cluster.address)):
                yield Nodes(cluster)
        finally:
            cluster.shutdown()
            shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def on_ray(nodes: Nodes, params: Params, tmp_path: Path) -> Machine:
    """Two workers of four threads on that cluster. This process is connected to it."""
    return dataclasses.replace(params.machine, engine="ray", ray_address=nodes.address, workers=2, threads=4,
                               scratch=str(tmp_path / "ray"))
