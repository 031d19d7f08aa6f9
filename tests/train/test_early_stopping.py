"""With `train.patience`, a training ends when its validation loss stops improving, also when it was interrupted."""

import dataclasses
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.train.test_resume import stopping_at
from tests.training.fixtures import write_tfrecords
from tests.training.outcomes import assert_same_weights, log

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.network.checkpoint_files import checkpoint_folders
from mlimages.train.run import train
from mlimages.training.schedule import NOT_VALIDATED, EarlyStopping

pytestmark = pytest.mark.usefixtures("no_saved_model")

ENDED = "the validation loss has not improved in 2 validations (train.patience), so the training ended after step 18 of"


@pytest.fixture(scope="module")
def other_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records whose validation classes are not in training: the more steps, the higher the validation loss."""
    return write_tfrecords(tmp_path_factory.mktemp("other_classes"), [16, 8], held_out=True)


def worsening(params: Train) -> Train:
    """30 steps, with validations after steps 6, 12, ..., 30."""
    return dataclasses.replace(params, loss="softmax", steps=30, epochs=None, patience=2, crop_area=[0.9, 1.0])


@pytest.fixture(scope="module")
def stopped(other_classes: Path, small_train: Train, small_machine: Callable[..., Machine],
            tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stopped")
    return train(worsening(small_train), small_machine(root / "scratch"), tfrecords=other_classes, out=root / "model")


def test_a_training_ends_after_patience_validations_without_improvement_and_says_so(stopped: Path) -> None:
    assert [row["step"] for row in log(stopped) if row["validation_loss"]] == ["6", "12", "18"]
    run = json.loads((stopped / "run.json").read_text())
    assert run["stopped_early"] == f"{ENDED} 30"
    assert (run["metrics"]["steps"], run["metrics"]["published_step"]) == (18, 18)
    assert f"**Early stopping:** {ENDED} 30." in (stopped / "model_card.md").read_text()


@pytest.mark.parametrize("step", [13, 18])
def test_an_interrupted_training_ends_early_at_the_same_step_with_the_same_bits(
        stopped: Path, other_classes: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], step: int) -> None:
    params, machine, out = worsening(small_train), small_machine(tmp_path / "scratch"), tmp_path / "model"

    def fail(*arguments: Any, **options: Any) -> None:
        raise UserError("the disk is full")

    with monkeypatch.context() as patch:
        if step == 18:
            patch.setattr("mlimages.training.loop.write_result", fail)
        else:
            patch.setattr("mlimages.training.step.Trainer.train", stopping_at(step, signal.SIGTERM))
        with pytest.raises(UserError, match="after step 13 of 30|disk is full"):
            train(params, machine, tfrecords=other_classes, out=out)
    [checkpoints] = tmp_path.glob("scratch/train/*/checkpoints")
    assert checkpoint_folders(checkpoints)[-1].name == f"step-{step:08d}"
    capfd.readouterr()
    train(params, machine, tfrecords=other_classes, out=out)
    said = capfd.readouterr().out
    assert f"resumed after step {step}" in said and ENDED in said
    assert_same_weights(out, stopped)
    assert log(out) == log(stopped)


def test_without_patience_or_with_improvement_the_training_goes_on() -> None:
    state = NOT_VALIDATED
    for loss, count in ((math.nan, 1), (3.0, 0), (3.0, 1), (math.inf, 2), (4.0, 3)):
        state = state.update(loss)
        assert state.without_improvement == count
    assert state == EarlyStopping(3.0, 3)
    assert [state.is_due(patience) for patience in (None, 4, 3, 2)] == [False, False, True, True]
    assert state.update(2.5) == EarlyStopping(2.5, 0)


@pytest.mark.cluster
def test_all_workers_end_early_after_the_same_step(
        other_classes: Path, cluster_train: Train, cluster_machine: Callable[..., Machine], tmp_path: Path,
        capfd: pytest.CaptureFixture[str]) -> None:
    params = dataclasses.replace(worsening(cluster_train), patience=1)
    out = train(params, cluster_machine(tmp_path / "scratch", train_workers=2), tfrecords=other_classes,
                out=tmp_path / "model")
    run = json.loads((out / "run.json").read_text())
    assert run["metrics"]["replicas"] == 2 and run["metrics"]["steps"] == 12
    assert "ended after step 12 of 30" in run["stopped_early"]
    assert "start again" not in capfd.readouterr().out
