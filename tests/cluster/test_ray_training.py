"""Training on a real Ray cluster that loses a node."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
from tests.cluster.conftest import Nodes
from tests.cluster.test_ray import meanwhile

from mlimages.params import Machine, Train
from mlimages.train import train
from mlimages.train.files import folders

pytestmark = pytest.mark.cluster
PATIENCE_SECONDS = 240.0


def test_on_ray_training_goes_on_when_a_node_is_lost(
        nodes: Nodes, on_ray: Machine, small_train: Train, small_tfrecords: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    second = nodes.add()
    params = dataclasses.replace(small_train, strategy="multi_worker", epochs=None, steps=150, checkpoint_steps=5,
                                 validation_images=0)
    machine = dataclasses.replace(on_ray, launcher="ray", workers=1)

    def strike() -> None:
        ends = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends and not any(
                len(folders(path)) > 1 for path in Path(machine.scratch).glob("train/*/checkpoints")):
            time.sleep(0.05)
        nodes.kill(second)

    with meanwhile(strike):
        out = train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    said = capfd.readouterr().out
    assert "restart 1 of 3" in said and "training resumes from " in said, said[-4000:]
    assert json.loads((out / "metrics.json").read_text())["steps"] == 150
    assert not os.environ.get("TF_CONFIG")
