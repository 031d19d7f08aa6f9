"""Workers run the fine-tuning and its comparison one after the other, whatever starts them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.training.outcomes import Trained, assert_close
from tests.training.running import with_tf_config

from mlimages.core.noise import is_noise
from mlimages.core.params import Machine, Train, Transfer
from mlimages.core.publish import verify
from mlimages.transfer.run import transfer

pytestmark = pytest.mark.cluster

TRANSFERS = """
import json, sys
del sys.modules["scipy"], sys.modules["sklearn"]  # which other programs do without
from mlimages.core.params import Machine, Train, Transfer, TransferDemo
from mlimages.transfer.run import transfer

params, machine, base, model, out = json.loads(sys.argv[1])
params["demo"] = TransferDemo(**params["demo"])
print("transferred", transfer(Transfer(**params), Machine(**machine), base=Train(**base), model=model, out=out))
"""


@pytest.fixture(scope="module")
def alone(trained: Trained, small_transfer: Transfer, cluster_train: Train, small_machine: Callable[..., Machine],
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same transfer by one process."""
    root = tmp_path_factory.mktemp("alone")
    return transfer(small_transfer, small_machine(root), base=dataclasses.replace(cluster_train, strategy="one_device"),
                    model=trained.out, out=root / "out")


def assert_like(out: Path, alone: Path) -> None:
    verify(out, "transfer")
    assert_close(out / "model", alone / "model")
    for name in ("model/validation.csv", "from_nothing.csv"):
        one, other = ([line.split(",")[0] for line in (folder / name).read_text().splitlines()]
                      for folder in (out, alone))
        assert one == other == ["step", "1", "2"]


def test_processes_that_something_else_starts_join_once_for_both_trainings(
        alone: Path, trained: Trained, small_transfer: Transfer, cluster_train: Train,
        cluster_machine: Callable[..., Machine], small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    machine = cluster_machine(tmp_path / "scratch", launcher="environment")
    commands = [small_python(TRANSFERS, json.dumps([
        dataclasses.asdict(small_transfer), dataclasses.asdict(machine), dataclasses.asdict(cluster_train),
        str(trained.out), str(tmp_path / f"out_{index}")])) for index in range(2)]
    chief, other = with_tf_config(commands)
    assert f"transferred {tmp_path / 'out_0'}" in chief, chief
    assert not (tmp_path / "out_1").exists(), "only the chief publishes"
    [result] = tmp_path.glob("scratch/transfer/*/out/predictions.csv")
    assert f"transferred {result.parent}" in other, other
    assert chief.count("worker 0 of 2: images 0 to 5 of the 12") == 2 and "random weights:" in chief
    assert len(list(tmp_path.glob("scratch/transfer/records-*"))) == 1, "one of them prepared the pictures"
    assert_like(tmp_path / "out_0", alone)


def test_workers_that_a_launcher_starts_run_both_trainings_in_the_same_processes(
        alone: Path, trained: Trained, small_transfer: Transfer, cluster_train: Train,
        cluster_machine: Callable[..., Machine], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = transfer(small_transfer, cluster_machine(tmp_path / "scratch"), base=cluster_train, model=trained.out,
                   out=tmp_path / "out")
    said = capfd.readouterr().out
    assert said.count("worker 1 of 2: images 6 to 11 of the 12") == 2 and "start again" not in said
    [log] = tmp_path.glob("scratch/transfer/*/finetune/workers/worker-0.log")
    assert log.read_text().count("process ") == 1
    assert not [line for line in log.read_text().splitlines() if is_noise(line.partition("] ")[2])]
    assert_like(out, alone)
