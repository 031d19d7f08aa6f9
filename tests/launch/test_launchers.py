"""How workers share the GPUs of a machine, and the errors of launchers."""

import dataclasses
import queue
import sys
from typing import Any

import pytest
from tests.conftest import PATIENCE_SECONDS

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.launch import base, slurm
from mlimages.launch.local import LocalLauncher
from mlimages.launch.slurm import run_tool
from mlimages.launch.supervisor import open_launcher


@pytest.fixture
def two(machine: Machine) -> Machine:
    return dataclasses.replace(machine, train_workers=2)


def shares(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The GPUs that each worker may use."""
    monkeypatch.setattr(base, "WORKER_COMMAND", ["sh", "-c", "echo GPUs $CUDA_VISIBLE_DEVICES"])
    launcher, output = LocalLauncher(machine), queue.SimpleQueue[tuple[str, Any]]()
    found = []
    for index in launcher.indices:
        launcher.start(index, lambda *event: output.put(event))
        found.append(output.get(timeout=PATIENCE_SECONDS)[1])
        assert output.get(timeout=PATIENCE_SECONDS) == ("exit", 0)
    return found


def test_workers_of_one_machine_share_the_gpus_that_this_process_may_use(two: Machine, monkeypatch: pytest.MonkeyPatch,
                                                                         ) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5,6,7")
    assert shares(two, monkeypatch) == ["GPUs 3,6", "GPUs GPU-5,7"]


def test_gpus_that_workers_cannot_share_evenly_are_refused(two: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(UserError, match=r"^machine.train_workers is 2, which cannot share 3 GPUs evenly"):
        LocalLauncher(two)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_from_this_process_are_hidden_from_workers(
        two: Machine, monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert shares(two, monkeypatch) == [f"GPUs {hidden}".strip()] * 2


def test_outside_of_an_allocation_slurm_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(UserError, match="is no SLURM allocation .*cluster/train.slurm with sbatch"), \
            open_launcher(dataclasses.replace(machine, launcher="slurm")):
        pytest.fail("it opened")


def test_without_ray_installed_it_is_said_what_to_install(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install -r requirements-ray.txt"), \
            open_launcher(dataclasses.replace(machine, launcher="ray")):
        pytest.fail("it opened")


def test_a_command_that_fails_or_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="^`ls /nowhere` failed: ls: cannot access"):
        run_tool("ls", "/nowhere")
    monkeypatch.setattr(slurm, "TOOL_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"^`sleep 60` did not answer within 0.2 s"):
        run_tool("sleep", "60")
