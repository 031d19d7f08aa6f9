"""The losses equal the released program's and those of their papers, on one replica and on several."""

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlimages.core.params import Train
from mlimages.training.losses import (
    ClassBalancedLoss,
    FocalLoss,
    Loss,
    SigmoidLoss,
    SoftmaxLoss,
    build_class_weights,
    build_loss,
    multi_label_warning,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = ["dev_all", "dev_none", "dev_masked"]

# Of each case, costs and gradients of 14 batches, every image twice, on 1, 2 and 4 replicas of a real strategy.
REPLICAS = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
from mlimages.training.losses import ClassBalancedLoss
from mlimages.training.distribution import sum_over_replicas

tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                           [tf.config.LogicalDeviceConfiguration()] * 4)

def run(reference, replicas):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(replicas)],
                                              cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        loss = ClassBalancedLoss(reference["labels"].shape[-1], float(reference["thres"]),
                                 float(reference["neg_select"]), replicas=replicas,
                                 sum_over_replicas=sum_over_replicas)

    def replica(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            cost = loss(labels, logits)
        return cost, tape.gradient(cost, logits)

    @tf.function
    def step(labels, logits):
        cost, gradient = strategy.run(replica, args=(labels, logits))
        return strategy.reduce("SUM", cost, axis=None), tf.concat(strategy.experimental_local_results(gradient), 0)

    batches = [[np.split(np.repeat(reference[name][number], 2, axis=0), replicas) for name in ("labels", "logits")]
               for number in range(14)]
    found = [step(*[strategy.experimental_distribute_values_from_function(
        lambda context, parts=parts: tf.constant(parts[context.replica_id_in_sync_group])) for parts in batch])
        for batch in batches]
    return {f"cost_{replicas}": np.array([cost for cost, _ in found]),
            f"gradient_{replicas}": np.array([gradient for _, gradient in found])}

for case in Path(sys.argv[1]).glob("*.npz"):
    reference = np.load(case)
    np.savez(Path(sys.argv[2]) / case.name, **run(reference, 1), **run(reference, 2), **run(reference, 4))
"""


def float32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def reference(case: str) -> dict[str, np.ndarray]:
    """14 successive batches of 6 images and 8 classes, with the released program's costs and gradients."""
    with np.load(FIXTURES / f"{case}.npz") as arrays:
        return dict(arrays)


def cost_and_gradient(loss: Callable[..., Any], labels: np.ndarray, logits: np.ndarray) -> tuple[float, np.ndarray]:
    inputs = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        cost = loss(tf.constant(labels), inputs)
    return float(cost), tape.gradient(cost, inputs).numpy()


@pytest.mark.parametrize("case", CASES)
def test_cost_and_gradient_of_successive_batches_equal_the_released_programs(case: str) -> None:
    expected = reference(case)
    loss = ClassBalancedLoss(8, float(expected["thres"]), float(expected["neg_select"]))
    for step in range(14):
        cost, gradient = cost_and_gradient(loss, expected["labels"][step], expected["logits"][step])
        assert cost == pytest.approx(float(expected["cost"][step]), rel=1e-5)
        np.testing.assert_allclose(gradient, expected["grad"][step], rtol=1e-5, atol=1e-5)


def draws() -> dict[str, Any]:
    """14 batches of which half of the 300 absent classes count, with one device's costs and gradients."""
    rng = np.random.default_rng(0)
    labels, logits = float32(rng.random((14, 6, 300)) < 0.01), float32(rng.normal(size=(14, 6, 300)))
    loss = ClassBalancedLoss(300, 0.7, 0.5)
    costs, gradients = zip(*(cost_and_gradient(loss, *batch) for batch in zip(labels, logits, strict=True)),
                           strict=True)
    absent = ~labels.any(axis=1)
    assert 0.4 < (np.array(gradients) != 0).any(axis=1)[absent].mean() < 0.6
    return {"labels": labels, "logits": logits, "thres": 0.7, "neg_select": 0.5, "cost": costs, "grad": gradients}


@pytest.fixture(scope="module")
def on_replicas(small_python: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with the expectation and the results of each case."""
    given, found = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("found")
    for case, expected in ({case: reference(case) for case in CASES} | {"draws": draws()}).items():
        np.savez(given / f"{case}.npz", **expected)
    done = subprocess.run(small_python(REPLICAS, str(given), str(found)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return given, found


@pytest.mark.parametrize("case", [*CASES, "draws"])
def test_replicas_share_the_cost_and_the_gradient_of_the_global_batch(case: str,
                                                                      on_replicas: tuple[Path, Path]) -> None:
    given, found = on_replicas
    with np.load(given / f"{case}.npz") as expected, np.load(found / f"{case}.npz") as results:
        for replicas in (1, 2, 4):
            np.testing.assert_allclose(results[f"cost_{replicas}"], expected["cost"], rtol=1e-5)
            # Every image comes twice, so that four replicas can share: half the gradient each.
            halves = np.repeat(np.array(expected["grad"]) / 2, 2, axis=1)
            np.testing.assert_allclose(results[f"gradient_{replicas}"], halves, rtol=1e-5, atol=1e-5)


def test_unknown_labels_have_no_cost_and_no_gradient() -> None:
    labels = float32([[1, -1, 0, -1], [-1, 0.9, -1, 0]])
    logits = float32([[2, 9, -1, -9], [5, 1, -5, 3]])
    others = np.where(labels == -1, -logits, logits)
    for loss in (lambda: ClassBalancedLoss(4, negative_selection=1.0), SigmoidLoss, lambda: FocalLoss(2.0, 2.0)):
        cost, gradient = cost_and_gradient(loss(), labels, logits)
        assert cost == cost_and_gradient(loss(), labels, others)[0]
        assert (gradient[labels == -1] == 0).all()
        assert (gradient[labels >= 0] != 0).all()


@pytest.mark.parametrize("loss", [SigmoidLoss(), FocalLoss(2.0, 2.0, alpha=0.25), SoftmaxLoss(),
                                  FocalLoss(0.0, 4.0, margin=0.05), FocalLoss(0.5, 0.5)])
def test_cost_and_gradient_stay_finite_for_large_logits(loss: Loss) -> None:
    right, _ = cost_and_gradient(loss, float32([[1, 0]]), float32([[1e4, -1e4]]))
    assert right == 0
    wrong, gradient = cost_and_gradient(loss, float32([[0, 1]]), float32([[1e4, -1e4]]))
    assert wrong > 1e3
    assert np.isfinite(gradient).all()


def test_the_sigmoid_loss_sums_over_classes_and_takes_the_mean_over_the_global_batch() -> None:
    labels, logits = float32([[1, 0], [0, 0.5]]), float32([[0.3, -2], [1, 4]])
    likelihood = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(likelihood) + (1 - labels) * np.log(1 - likelihood)).sum() / 2
    cost, gradient = cost_and_gradient(SigmoidLoss(), labels, logits)
    assert cost == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, (likelihood - labels) / 2, rtol=1e-5)
    shares = [float(SigmoidLoss(replicas=2)(labels[one: one + 1], logits[one: one + 1])) for one in range(2)]
    assert sum(shares) == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_has_the_formula_of_its_paper() -> None:
    labels, logits = float32([[1, 0], [0, 1]]), float32([[0.3, -2], [1, 4]])
    right = np.where(labels == 1, 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits)))
    expected = (-np.where(labels == 1, 0.25, 0.75) * (1 - right) ** 2 * np.log(right)).sum() / 2
    assert float(FocalLoss(2.0, 2.0, alpha=0.25)(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_the_asymmetric_loss_has_the_formula_of_its_paper() -> None:
    labels, logits = float32([[1, 0, 0], [0, 1, 0]]), float32([[0.3, -2, -5], [1, 4, -0.5]])
    chance = 1 / (1 + np.exp(-logits))
    shifted = np.maximum(chance - 0.05, 0)
    expected = -(labels * np.log(chance) + (1 - labels) * shifted**4 * np.log(1 - shifted)).sum() / 2
    cost, gradient = cost_and_gradient(FocalLoss(0.0, 4.0, margin=0.05), labels, logits)
    assert cost == pytest.approx(expected, rel=1e-5)
    assert gradient[0, 2] == 0, "within the margin"


def test_the_focal_loss_with_gamma_0_is_sigmoid_cross_entropy() -> None:
    labels, logits = float32([[1, 0], [-1, 0.5]]), float32([[0.3, -2], [1, 4]])
    assert float(FocalLoss(0.0, 0.0)(labels, logits)) == pytest.approx(float(SigmoidLoss()(labels, logits)), rel=1e-6)


def test_the_softmax_loss_is_the_log_likelihood_of_the_images_class() -> None:
    labels, logits = float32([[0, 1, 0], [0.9, -1, 0]]), float32([[0.3, -2, 1], [1, 4, 2]])
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cost, gradient = cost_and_gradient(SoftmaxLoss(), labels, logits)
    assert cost == pytest.approx(-(np.log(chance[0, 1]) + np.log(chance[1, 0])) / 2, rel=1e-5)
    np.testing.assert_allclose(gradient, (chance - [[0, 1, 0], [1, 0, 0]]) / 2, rtol=1e-5, atol=1e-7)


def test_label_smoothing_of_the_softmax_loss_is_that_of_keras() -> None:
    labels, logits = float32([[0, 1, 0], [0.9, -1, 0], [0, 0, 1]]), float32([[0.3, -2, 1], [1, 4, 2], [3, 1, -1]])
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = float(keras_loss(float32([[0, 1, 0], [1, 0, 0], [0, 0, 1]]), logits))
    assert float(SoftmaxLoss(label_smoothing=0.1)(labels, logits)) == pytest.approx(expected, rel=1e-5)
    no_class = float32([[0, 0, 0], [0, -1, 0], [0, 0, 0]])
    assert float(SoftmaxLoss(label_smoothing=0.1)(no_class, logits)) == 0


def test_label_smoothing_of_the_sigmoid_loss_is_that_of_keras() -> None:
    labels, logits = float32([[1, 0, 0], [0, 0.5, 1]]), float32([[0.3, -2, 1], [1, 4, 2]])
    keras_loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2)
    expected = 3 * float(keras_loss(labels, logits))  # Keras takes the mean over the classes
    cost, gradient = cost_and_gradient(SigmoidLoss(label_smoothing=0.2), labels, logits)
    assert cost == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, (1 / (1 + np.exp(-logits)) - (0.8 * labels + 0.1)) / 2, rtol=1e-5)


@pytest.mark.parametrize("loss", [SigmoidLoss, ClassBalancedLoss, FocalLoss])
def test_label_smoothing_leaves_unknown_labels_unknown(loss: Callable[..., Loss]) -> None:
    options = {ClassBalancedLoss: (2, 0.7, 1.0), FocalLoss: (2.0, 2.0)}.get(loss, ())  # type: ignore[call-overload]
    labels, logits = float32([[1, -1], [0, -1]]), float32([[0.3, -2], [1, 4]])
    _, gradient = cost_and_gradient(loss(*options, label_smoothing=0.8), labels, logits)
    assert (gradient[:, 1] == 0).all() and (gradient[:, 0] != 0).all()


def test_label_smoothing_does_not_change_which_classes_are_present() -> None:
    labels, logits = float32([[0.72, 0], [0, 0]]), float32([[0.3, -2], [1, 4]])
    loss = ClassBalancedLoss(2, 0.7, 1.0, label_smoothing=0.2)
    loss(labels, logits)
    assert loss.counters()["batches_present"].tolist() == [1, 0]


@pytest.mark.parametrize("rule, expected", [("inverse_frequency", [1, 4, 0.25, 4]),
                                            ("inverse_sqrt_frequency", [1, 2, 0.5, 2])])
def test_class_weights_fall_with_the_number_of_records_and_have_the_mean_1(rule: str, expected: list[float]) -> None:
    weights = build_class_weights(rule, np.array([4, 1, 16, 0]))
    assert weights is not None and weights.dtype == np.float32
    np.testing.assert_allclose(weights, np.array(expected) / np.mean(expected), rtol=1e-6)
    assert build_class_weights(None, np.array([4, 1])) is None


def test_class_weights_multiply_the_sigmoid_loss_of_each_class() -> None:
    labels, logits, weights = float32([[1, 0], [0, 0.5]]), float32([[0.3, -2], [1, 4]]), float32([0.5, 3])
    likelihood = 1 / (1 + np.exp(-logits))
    terms = -(labels * np.log(likelihood) + (1 - labels) * np.log(1 - likelihood))
    for loss in (SigmoidLoss(class_weights=weights), FocalLoss(0.0, 0.0, class_weights=weights)):
        cost, gradient = cost_and_gradient(loss, labels, logits)
        assert cost == pytest.approx((weights * terms).sum() / 2, rel=1e-5)
        np.testing.assert_allclose(gradient, weights * (likelihood - labels) / 2, rtol=1e-5)


def test_class_weights_multiply_the_softmax_loss_of_each_image_by_that_of_its_class() -> None:
    labels, logits, weights = float32([[0, 1, 0], [1, 0, 0]]), float32([[0.3, -2, 1], [1, 4, 2]]), float32([0.5, 2, 1])
    each = -np.log((np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[[0, 1], [1, 0]])
    cost, _ = cost_and_gradient(SoftmaxLoss(class_weights=weights), labels, logits)
    assert cost == pytest.approx((2 * each[0] + 0.5 * each[1]) / 2, rel=1e-5)


def test_softmax_warns_of_images_with_several_classes(small_train: Train) -> None:
    softmax, records = dataclasses.replace(small_train, loss="softmax"), np.array([3, 2, 0])
    assert "4 training images have 5 classes" in multi_label_warning(softmax, records, 4)
    assert multi_label_warning(softmax, records, 5) == ""
    assert multi_label_warning(dataclasses.replace(small_train, loss="sigmoid"), records, 4) == ""


@pytest.mark.parametrize("name, kind", [("class_balanced", ClassBalancedLoss), ("sigmoid", SigmoidLoss),
                                        ("softmax", SoftmaxLoss), ("focal", FocalLoss), ("asymmetric", FocalLoss)])
def test_the_parameter_names_the_loss(small_train: Train, name: str, kind: type[Loss]) -> None:
    params = dataclasses.replace(small_train, loss=name, focal_alpha=0.5)  # type: ignore[arg-type]
    assert type(build_loss(params, 4, 1, lambda tensor: tensor)) is kind


@pytest.mark.parametrize("name, change", [
    ("focal", {"focal_gamma": 3.0}), ("focal", {"focal_alpha": 0.5}),
    ("asymmetric", {"asymmetric_gamma_negative": 1.0}),
    ("asymmetric", {"asymmetric_margin": 0.3}), ("class_balanced", {"positive_weight": 1.0}),
    ("class_balanced", {"positive_threshold": 0.99}), ("class_balanced", {"negative_selection": 0.0}),
    *((name, {"label_smoothing": 0.1}) for name in ("class_balanced", "sigmoid", "focal", "softmax"))])
def test_every_parameter_of_a_loss_changes_it(small_train: Train, name: str, change: dict[str, float]) -> None:
    labels, logits = np.repeat(float32([[1, 0.8, 0, 0]]), 2, 0), float32([[0.3, -2, 1, 0], [1, 4, 2, 1]])
    params = dataclasses.replace(small_train, loss=name, negative_selection=1.0)  # type: ignore[arg-type]
    one, other = (float(build_loss(chosen, 4, 1, lambda tensor: tensor)(labels, logits))
                  for chosen in (params, dataclasses.replace(params, **change)))  # type: ignore[arg-type]
    assert one != pytest.approx(other, rel=1e-3)


def test_absent_classes_are_selected_with_the_given_probability_in_each_batch() -> None:
    loss = ClassBalancedLoss(2000, negative_selection=0.1, seed=5)
    labels, logits = np.zeros((1, 2000), np.float32), np.zeros((1, 2000), np.float32)
    first, second = (cost_and_gradient(loss, labels, logits)[1][0] != 0 for _ in range(2))
    assert 0.07 < first.mean() < 0.13
    assert (first != second).any()


def test_an_absent_class_counts_the_batches_for_which_it_was_selected() -> None:
    loss = ClassBalancedLoss(50, negative_selection=0.5, seed=5)
    labels, logits = np.zeros((1, 50), np.float32), np.zeros((1, 50), np.float32)
    selected = sum(cost_and_gradient(loss, labels, logits)[1][0] != 0 for _ in range(6))
    np.testing.assert_array_equal(loss.counters()["batches_absent"], selected)
    assert len(set(selected.tolist())) > 3


def test_the_seed_decides_which_absent_classes_are_selected() -> None:
    labels, logits = np.zeros((1, 500), np.float32), np.zeros((1, 500), np.float32)
    one, same, other = (cost_and_gradient(ClassBalancedLoss(500, seed=seed), labels, logits)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
