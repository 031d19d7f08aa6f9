"""Training on a real SLURM cluster, by the shipped batch script, and on a real Ray cluster that loses a node."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
from tests.cluster.conftest import Nodes
from tests.cluster.test_ray import meanwhile, wait_for
from tests.cluster.test_slurm import pytestmark as needs_slurm
from tests.cluster.test_slurm import submit
from tests.test_pipeline import change, make_copy, run

from mlimages.params import Machine, Train
from mlimages.train import train
from mlimages.train.files import folders

slurm = [mark for mark in needs_slurm if mark.name == "skipif"]
pytestmark = pytest.mark.slow


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository, in which workers train on SLURM's nodes."""
    made = make_copy(tmp_path / "copy")
    (made / ".venv").symlink_to(Path(sys.executable).parents[1])
    change(made, {"train": {"strategy": "multi_worker", "validation_images": 8}, "machine": {"launcher": "slurm"}})
    return made


@pytest.mark.parametrize("_", [pytest.param(None, marks=slurm)])
def test_the_batch_script_trains_on_two_nodes(copy: Path, tmp_path: Path, _: None) -> None:
    run(copy, "dvc", "repro", "convert")
    ended = submit(tmp_path / "slurm", copy / "cluster" / "train.slurm", "--nodes=2", "--output=out", cwd=copy)
    said = (copy / "out").read_text()
    assert ended.returncode == 0, said[-4000:] + ended.stderr
    assert json.loads((copy / "data/model/metrics.json").read_text())["replicas"] == 2
    logs = [path.read_text() for path in sorted(copy.glob("scratch/train/*/workers/*.log"))]
    assert ["is at 127.0.0.1:" in logs[0], "is at 127.0.0.2:" in logs[1]] == [True, True]
    assert "worker 1 of 2: images " in said


def test_on_ray_training_goes_on_when_a_node_is_lost(
        nodes: Nodes, on_ray: Machine, small_train: Train, small_tfrecords: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    second = nodes.add()
    params = dataclasses.replace(small_train, strategy="multi_worker", epochs=None, steps=120, checkpoint_steps=5,
                                 validation_images=0)
    machine = dataclasses.replace(on_ray, launcher="ray", workers=1)

    def strike() -> None:
        wait_for(lambda: any(len(folders(path)) > 1 for path in Path(machine.scratch).glob("train/*/checkpoints")))
        nodes.kill(second)

    with meanwhile(strike):
        out = train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    said = capfd.readouterr().out
    assert "restart 1 of 3" in said and "training resumes from " in said, said[-4000:]
    assert json.loads((out / "metrics.json").read_text())["steps"] == 120
    assert not os.environ.get("TF_CONFIG")
