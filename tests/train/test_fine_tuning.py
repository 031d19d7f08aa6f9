"""A training that begins from a network keeps frozen layers, and trains on images of growing size."""

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests.train.test_resume import stopping_at
from tests.training.outcomes import Trained, assert_same_weights, log

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.network.checkpoint_files import VARIABLES
from mlimages.train.run import train
from mlimages.training.jobs import TrainingJob
from mlimages.training.loop import fit
from mlimages.training.step import Trainer

pytestmark = pytest.mark.usefixtures("no_saved_model")


def variables(path: Path) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy()
            for variable in keras.models.load_model(path / "model.keras", compile=False).variables}


def test_frozen_layers_keep_weights_and_statistics_to_the_bit(
        trained: Trained, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        tmp_path: Path) -> None:
    params = dataclasses.replace(small_train, initialize_from=str(trained.out), freeze_through="stages_0", epochs=None,
                                 steps=2, validation_images=0)
    out = train(params, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")
    start, end = variables(trained.out), variables(out)
    changed = {path for path in start if (start[path] != end[path]).any()}
    frozen = {path for path in start if path.startswith(("init_conv/", "stages_0_"))}
    assert len(frozen) > 10 and changed == set(start) - frozen


def test_trainings_one_after_the_other_share_a_trainer_and_have_the_bits_of_trainings_alone(
        trained: Trained, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainers: list[Trainer] = []
    build = Trainer.__init__

    def remembered(trainer: Trainer, *arguments: Any, **options: Any) -> None:
        trainers.append(trainer)
        build(trainer, *arguments, **options)

    monkeypatch.setattr(Trainer, "__init__", remembered)
    tuned = dataclasses.replace(small_train, initialize_from=str(trained.out), initialize_logits=False, epochs=None,
                                steps=2, warmup=0.0, optimizer="adamw", dropout=0.5, ema_decay=0.9,
                                precision="mixed_float16")
    jobs = [TrainingJob(params, small_tfrecords, tmp_path / name, comparison=True) for name, params in (
        ("tuned", tuned), ("random", dataclasses.replace(tuned, initialize_from=None, initialize_logits=True)),
        ("tuned again", tuned), ("frozen", dataclasses.replace(tuned, freeze_through="stages_0")))]
    fit(jobs, small_machine(tmp_path))
    assert len(trainers) == 2, "frozen layers need another step"
    assert trainers[0].call.experimental_get_tracing_count() == 1
    alone = TrainingJob(jobs[1].params, small_tfrecords, tmp_path / "alone", comparison=True)
    fit([alone], small_machine(tmp_path))
    for one, other in (("random", "alone"), ("tuned again", "tuned")):
        assert checkpoint(tmp_path / one) == checkpoint(tmp_path / other)
        assert log(tmp_path / one) == log(tmp_path / other)
    assert len({checkpoint(job.work) for job in jobs}) == 3
    fit(jobs, small_machine(tmp_path))
    assert len(trainers) == 3, "finished trainings are left out"


def checkpoint(work: Path) -> bytes:
    """The bytes of all variables after the last step, without the graph, in which Keras numbers its objects."""
    reader = tf.train.load_checkpoint(str(work / "checkpoints/step-00000002" / VARIABLES))
    names = sorted(set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"})
    return b"".join(np.asarray(reader.get_tensor(name)).tobytes() for name in names)


def test_a_stage_that_the_network_lacks_is_refused(trained: Trained, small_tfrecords: Path, small_train: Train,
                                                   small_machine: Callable[..., Machine], tmp_path: Path) -> None:
    params = dataclasses.replace(small_train, initialize_from=str(trained.out), freeze_through="stages_7")
    with pytest.raises(UserError, match="train.freeze_through: the network has no stages_7; its stages are stages_0, "
                                        "stages_1"):
        train(params, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")


@pytest.mark.parametrize("stop", [4, 9, 10])
def test_images_of_earlier_pixels_come_first_also_after_an_interruption(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, growing: tuple[Path, list[int]], stop: int) -> None:
    straight, sides = growing
    assert sides == [16] * 9 + [32] * 6
    params, machine = grow(small_train), small_machine(tmp_path / "scratch")
    with monkeypatch.context() as patch:
        patch.setattr("mlimages.training.step.Trainer.train", stopping_at(stop, signal.SIGTERM))
        with pytest.raises(UserError, match=f"after step {stop} of 15"):
            train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    out = train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    assert_same_weights(out, straight)
    assert log(out) == log(straight)


def grow(params: Train) -> Train:
    return dataclasses.replace(params, earlier_pixels=[16], earlier_shares=[0.6], validation_images=0)


@pytest.fixture(scope="module")
def growing(small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
            tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """An uninterrupted training, and the side of the images of each of its steps."""
    root, sides, take = tmp_path_factory.mktemp("growing"), list[int](), Trainer.train

    def remembered(trainer: Trainer, batches: Any, *arguments: Any, **options: Any) -> np.ndarray:
        sides.append(batches.element_spec[0].shape[1])
        return take(trainer, batches, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlimages.training.step.Trainer.train", remembered)
        out = train(grow(small_train), small_machine(root / "scratch"), tfrecords=small_tfrecords, out=root / "model")
    return out, sides
