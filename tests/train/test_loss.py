"""The losses are the released program's, on one replica and on several."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlimages.train.loss import ClassBalancedLoss, SigmoidLoss, cross_entropy

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = ["dev_all", "dev_none", "dev_masked"]


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


class Meeting:
    """Adds a tensor over threads that play the replicas: each waits until all have brought theirs."""

    def __init__(self, replicas: int) -> None:
        self._brought: list[Any] = []
        self._barrier = threading.Barrier(replicas, timeout=60)

    def sum(self, tensor: Any) -> Any:
        self._brought.append(tensor)
        self._barrier.wait()
        total = tf.add_n(self._brought)
        if self._barrier.wait() == 0:
            self._brought.clear()
        self._barrier.wait()
        return total


@pytest.mark.parametrize("case", CASES)
def test_cost_and_gradient_are_the_released_programs_batch_after_batch(case: str) -> None:
    expected = reference(case)
    loss = ClassBalancedLoss(8, float(expected["thres"]), float(expected["neg_select"]))
    for step in range(14):
        cost, gradient = cost_and_gradient(loss, expected["labels"][step], expected["logits"][step])
        assert cost == pytest.approx(float(expected["cost"][step]), rel=1e-5)
        np.testing.assert_allclose(gradient, expected["grad"][step], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_replicas_share_the_cost_and_the_gradient_of_the_global_batch(case: str, replicas: int) -> None:
    expected = reference(case)
    meeting = Meeting(replicas)
    losses = [ClassBalancedLoss(8, float(expected["thres"]), float(expected["neg_select"]), replicas=replicas,
                                sum_over_replicas=meeting.sum) for _ in range(replicas)]
    with ThreadPoolExecutor(replicas) as pool:
        for step in range(14):
            # Every image twice, so that four can share: the same cost, half the gradient each.
            labels, logits = (np.split(np.repeat(expected[name][step], 2, axis=0), replicas)
                              for name in ("labels", "logits"))
            results = list(pool.map(cost_and_gradient, losses, labels, logits))
            assert sum(cost for cost, _ in results) == pytest.approx(float(expected["cost"][step]), rel=1e-5)
            gradient = np.concatenate([gradient for _, gradient in results])
            np.testing.assert_allclose(gradient, np.repeat(expected["grad"][step] / 2, 2, axis=0), rtol=1e-5, atol=1e-5)


def test_a_label_that_is_not_known_adds_nothing_and_has_no_gradient() -> None:
    labels = float32([[1, -1, 0, -1], [-1, 0.9, -1, 0]])
    logits = float32([[2, 9, -1, -9], [5, 1, -5, 3]])
    masked = labels == -1
    assert (cross_entropy(labels, logits, 12.0).numpy()[masked] == 0).all()
    for loss in (ClassBalancedLoss(4, negative_selection=1.0), SigmoidLoss()):
        _, gradient = cost_and_gradient(loss, labels, logits)
        assert (gradient[masked] == 0).all()
        assert (gradient[~masked] != 0).all()


def test_cross_entropy_stays_finite_for_large_logits() -> None:
    logits = float32([[1e4, -1e4]])
    assert cross_entropy(float32([[1, 0]]), logits).numpy().tolist() == [[0, 0]]
    assert cross_entropy(float32([[0, 1]]), logits).numpy().tolist() == [[1e4, 1e4]]


def test_the_sigmoid_loss_sums_over_classes_and_takes_the_mean_over_the_global_batch() -> None:
    labels, logits = float32([[1, 0], [0, 0.5]]), float32([[0.3, -2], [1, 4]])
    likelihood = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(likelihood) + (1 - labels) * np.log(1 - likelihood)).sum() / 2
    assert float(SigmoidLoss()(labels, logits)) == pytest.approx(expected, rel=1e-5)
    shares = [float(SigmoidLoss(2)(labels[index : index + 1], logits[index : index + 1])) for index in range(2)]
    assert sum(shares) == pytest.approx(expected, rel=1e-5)


def test_absent_classes_are_selected_with_the_probability_asked_for_drawn_anew_each_batch() -> None:
    loss = ClassBalancedLoss(2000, negative_selection=0.1, seed=5)
    labels, logits = np.zeros((1, 2000), np.float32), np.zeros((1, 2000), np.float32)
    first, second = (cost_and_gradient(loss, labels, logits)[1][0] != 0 for _ in range(2))
    assert 0.07 < first.mean() < 0.13
    assert (first != second).any()


def test_the_seed_decides_which_absent_classes_are_selected() -> None:
    labels, logits = np.zeros((1, 500), np.float32), np.zeros((1, 500), np.float32)
    one, same, other = (cost_and_gradient(ClassBalancedLoss(500, seed=seed), labels, logits)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
