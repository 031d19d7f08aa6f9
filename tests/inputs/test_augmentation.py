"""Augmentation on tensors is the same on the host and on a device, and depends only on the seed and n."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.inputs.augmentation import TensorAugmentation
from mlimages.inputs.colour_jitter import NEAR_LEVELS
from mlimages.inputs.pipeline import Records, training_batches
from mlimages.inputs.random_draws import OPERATION_NAMES, OPERATIONS, mixup_weights
from mlimages.training.distribution import distribute, mirrored_strategy
from mlimages.training.step import Trainer

Batch = tuple[np.ndarray, np.ndarray]
RANDOM: dict[str, Any] = {"rand_augment": 0.5, "rotate_and_color_jitter": False}
MIXED: dict[str, Any] = {"mixup": 0.4, "rotate_and_color_jitter": False}
BOTH: dict[str, Any] = RANDOM | MIXED
KINDS = pytest.mark.parametrize("kind", [RANDOM, MIXED, BOTH], ids=["rand_augment", "mixup", "both"])
PLACES = pytest.mark.parametrize("place", ["host", "device"])


@pytest.fixture
def augmented(small_records: Records, small_train: Train) -> Callable[..., list[Batch]]:
    """Batches as the network gets them: images in levels from 0 to 255, and labels."""

    def read(steps: int = 3, first: int = 0, parts: int = 1, readers: int = 2, **changed: Any) -> list[Batch]:
        params = dataclasses.replace(small_train, **{"image_dtype": "float32", **changed})
        augmentation = TensorAugmentation(params, device=True)
        stream = training_batches(small_records, params, steps=steps, first=first, parts=parts, mine=range(parts),
                                  readers=readers)
        return [((np.array(images) + 1) * 127.5, np.array(labels)) for images, labels in
                (augmentation(*batch) for batch in stream)]

    return read


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def differences(one: list[Batch], other: list[Batch]) -> np.ndarray:
    """The differences of the images in levels: [images of all batches, pixels, pixels, 3]."""
    return np.concatenate([np.abs(images - others) for (images, _), (others, _) in zip(one, other, strict=True)])


def test_rotation_and_colour_on_the_device_are_those_of_the_host(augmented: Callable[..., list[Batch]]) -> None:
    """Colours differ by a few levels, since the host applies a matrix. A third of the images has no colour jitter."""
    host, device = (augmented(steps=6, augment_on=place) for place in ("host", "device"))
    different = differences(host, device).reshape(48, -1)
    assert np.sqrt(np.square(different).mean(axis=1)).max() < 1.5 * NEAR_LEVELS
    assert 8 <= (different.max(axis=1) < 0.01).sum() <= 24


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@KINDS
def test_the_host_and_the_device_give_the_same_batches(augmented: Callable[..., list[Batch]], kind: dict[str, Any],
                                                      dtype: str) -> None:
    host, device = (augmented(augment_on=place, image_dtype=dtype, **kind) for place in ("host", "device"))
    assert np.quantile(differences(host, device), 0.999) < (0.51 if dtype == "uint8" else 0.01)
    np.testing.assert_allclose(host[0][1], device[0][1], atol=1e-6)


@pytest.mark.parametrize("kind", [RANDOM, MIXED], ids=["rand_augment", "mixup"])
def test_a_stronger_augmentation_changes_the_images_more(augmented: Callable[..., list[Batch]],
                                                         kind: dict[str, Any]) -> None:
    plain = augmented(rotate_and_color_jitter=False)
    strong = augmented(**kind)
    weak = augmented(**{name: value / 10 if isinstance(value, float) else value for name, value in kind.items()})
    assert differences(strong, plain).mean() > differences(weak, plain).mean() > 0


@PLACES
@KINDS
def test_a_batch_is_a_function_of_seed_and_number(augmented: Callable[..., list[Batch]], kind: dict[str, Any],
                                                  place: str) -> None:
    """The bits are equal for any number of readers, any first step and any number of replicas."""
    kind = {**kind, "augment_on": place}
    whole = augmented(**kind)
    assert_equal(augmented(readers=3, first=2, **kind), whole[2:])
    shares = augmented(parts=2, **kind)
    joined = [(np.concatenate([one, other]), np.concatenate([labels, others]))
              for (one, labels), (other, others) in zip(shares[::2], shares[1::2], strict=True)]
    assert_equal(joined, whole)
    assert differences(augmented(seed=9, **kind), whole).max() > 0


def test_every_operation_of_rand_augment_is_known_and_applied_to_its_image_alone(small_train: Train) -> None:
    params = dataclasses.replace(small_train, rand_augment=0.9, rotate_and_color_jitter=False)
    augment = TensorAugmentation(params, device=False)
    count = len(OPERATION_NAMES)
    picture = np.random.default_rng(0).integers(20, 200, (32, 32, 3)).astype(np.uint8)
    images = np.stack([picture] * count)
    operations = np.repeat(np.arange(count)[:, None], OPERATIONS, axis=1).astype(np.int32)
    values = {"operations": operations, "seeds": np.full((count, OPERATIONS, 2), 3, np.int32)}
    found, _ = augment(tf.constant(images), tf.zeros((count, 4)), values)
    changed = np.abs((np.array(found) + 1) * 127.5 - images).reshape(count, -1).max(axis=1)
    assert (changed > 1).all(), dict(zip(OPERATION_NAMES, changed, strict=True))
    one, _ = augment(tf.constant(images[4:5]), tf.zeros((1, 4)), {name: value[4:5] for name, value in values.items()})
    np.testing.assert_array_equal(one[0], found[4])


def test_mixup_mixes_neighbours_and_a_label_that_either_lacks_stays_unknown(
        small_train: Train) -> None:
    augment = TensorAugmentation(dataclasses.replace(small_train, **MIXED), device=False)
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)), tf.float32)
    labels = tf.constant([[1, 0, 0], [0, 0.8, -1], [1, 1, 1], [0, 0, 0]], tf.float32)
    weight = np.array([0.75, 0.5, 1.0, 0.0], np.float32)
    mixed, confidences = augment(images, labels, {"mixup_weight": weight})
    expected = np.array([[0.75, 0.2, -1], [0.5, 0.4, -1], [1, 1, 1], [1, 1, 1]])
    np.testing.assert_allclose(confidences, expected, atol=1e-6)
    np.testing.assert_allclose(mixed[0], 0.75 * images[0] + 0.25 * images[1], atol=1e-6)
    np.testing.assert_allclose(mixed[3], images[2], atol=1e-6)


def test_the_weights_of_mixup_are_of_its_beta_distribution() -> None:
    for alpha in (0.2, 1.0):
        kept = mixup_weights(0, 0, 20_000, alpha)
        assert kept.mean() == pytest.approx(0.5, abs=0.02)
        assert kept.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    np.testing.assert_array_equal(mixup_weights(0, 100, 300, 0.2), mixup_weights(0, 0, 300, 0.2)[100:])


def test_mixup_refuses_an_odd_number_of_images(small_records: Records, small_train: Train) -> None:
    odd = dataclasses.replace(small_train, batch=6, **MIXED)
    with pytest.raises(UserError, match="share of train.batch, 6, is 3 images; expected an even number"):
        training_batches(small_records, odd, steps=1, parts=2)


def test_the_training_step_augments_on_the_device(small_records: Records, small_train: Train, tmp_path: Path,
                                                  small_machine: Callable[..., Machine]) -> None:
    """The first losses of a training are the same as with augmentation on the host."""

    def losses(place: Literal["host", "device"]) -> list[float]:
        params = dataclasses.replace(small_train, augment_on=place, loss="sigmoid", **MIXED)
        strategy = mirrored_strategy(small_machine(tmp_path))
        trainer = Trainer(params, small_records.classes, strategy)
        batches = distribute(strategy, lambda context: training_batches(small_records, params, steps=2))
        return [float(trainer.train(batches, np.array([0.01]))[0]) for _ in range(2)]

    np.testing.assert_allclose(losses("host"), losses("device"), rtol=3e-3)
