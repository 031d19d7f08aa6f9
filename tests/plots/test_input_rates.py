"""The plot of the input pipeline: its first images, and the images per second up to each stage."""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import pytest

from mlimages.core.params import Params, Train
from mlimages.core.publish import publish
from mlimages.inputs.pipeline import Records
from mlimages.inputs.stage_rates import measure_stages
from mlimages.plots.inputs import main

ALWAYS = ["reading records", "decoding", "crop, resize, flip", "labels and batches", "on the device"]


@pytest.fixture
def command(small_train: Train, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
            capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command with the parameters of a tiny training; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlimages.plots.inputs.load", lambda: dataclasses.replace(params, train=small_train))
    backend = matplotlib.get_backend()

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--seconds", "0.01"])
        matplotlib.use(backend)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("changes", "more"), [
    ({"rotate_and_color_jitter": False}, []),
    ({"rotate_and_color_jitter": True}, ["rotation and colour"]),
    ({"rotate_and_color_jitter": True, "augment_on": "device"}, []),
    ({"rotate_and_color_jitter": False, "mixup": 0.2}, ["RandAugment, mixup"])])
def test_the_parameters_decide_which_stages_are_measured(small_records: Records, small_train: Train,
                                                          changes: dict[str, Any], more: list[str]) -> None:
    stages = measure_stages(small_records, dataclasses.replace(small_train, **changes), readers=2, seconds=0.01)
    assert sorted(stage.name for stage in stages) == sorted([*ALWAYS, *more])
    assert all(stage.images_per_second > 0 for stage in stages)


def test_the_command_prints_a_table_and_draws_a_picture(command: Any, small_tfrecords: Path, tmp_path: Path) -> None:
    code, printed, _ = command("--tfrecords", str(small_tfrecords), "--out", "seen.png")
    assert code == 0
    assert all(name in printed for name in ALWAYS) and "seen.png" in printed
    picture = cv2.imread(str(tmp_path / "seen.png"))
    assert picture is not None and picture.shape[1] >= 1000 and picture.std() > 10


def test_without_records_the_command_names_the_stage_to_run(command: Any, tmp_path: Path) -> None:
    code, _, complaint = command("--tfrecords", "nowhere")
    assert code == 2
    assert complaint == ("ERROR: nowhere/manifest.json is missing: the stage convert has not finished; run `dvc repro "
                         "convert`\n")
    (tmp_path / "work").mkdir()
    publish(tmp_path / "work", tmp_path / "empty", stage="convert", records={}, classes=3)
    code, _, complaint = command("--tfrecords", "empty")
    assert code == 2
    assert complaint.startswith("ERROR: empty holds no training records, expected at least one; run `dvc repro")
    assert not (tmp_path / "inputs.png").exists()
