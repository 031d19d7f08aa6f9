"""Training on a real Ray cluster that loses a node."""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.cluster.conftest import Nodes, meanwhile, wait_for
from tests.training.outcomes import as_json
from tests.training.running import TRAINS, Running

from mlimages.core.params import Machine, Train
from mlimages.train.run import train

pytestmark = pytest.mark.cluster


def test_on_ray_training_goes_on_when_a_node_is_lost_and_when_its_driver_is_killed(
        nodes: Nodes, on_ray: Machine, small_train: Train, small_tfrecords: Path, tmp_path: Path,
        small_python: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
        ) -> None:
    monkeypatch.chdir(tmp_path)
    second = nodes.add()
    params = dataclasses.replace(small_train, strategy="multi_worker", epochs=None, steps=150, checkpoint_steps=5,
                                 validation_images=0)
    machine = dataclasses.replace(on_ray, launcher="ray", workers=1)

    driver = Running(small_python(TRAINS, as_json(params, machine, small_tfrecords, tmp_path / "model")),
                     Path(machine.scratch))
    driver.wait(1, lambda: driver.step() >= 10)
    driver.process.kill()
    workers = [pid for index in range(2) for pid in driver.pids(index)]
    wait_for(lambda: not any(map(psutil.pid_exists, workers)))
    done = driver.step()

    def strike() -> None:
        wait_for(lambda: driver.step() >= done + 10, seconds=240.0)
        nodes.kill(second)

    with meanwhile(strike):
        out = train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    said = capfd.readouterr().out
    assert "restart 1 of 3" in said and "training resumes from " in said, said[-4000:]
    steps = sorted({int(step) for step in re.findall(r"resumed after step (\d+)", said)})
    assert len(steps) == 2 and steps[0] >= params.checkpoint_steps, "after the driver, and after the node was lost"
    assert json.loads((out / "metrics.json").read_text())["steps"] == 150
    assert not os.environ.get("TF_CONFIG")
