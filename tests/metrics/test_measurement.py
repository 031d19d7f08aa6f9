"""The metrics of batches of probabilities and labels: means, groups of classes, calibration, and refused inputs."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, top_k_accuracy_score

from mlimages.core.errors import UserError
from mlimages.metrics.average_precision import MultiLabelMetrics
from mlimages.metrics.measurement import MetricsAccumulator

IMAGES, CLASSES = 90, 8
RNG = np.random.default_rng(0)
CONFIDENCES = np.where(RNG.random((IMAGES, CLASSES)) < 0.3, RNG.choice([0.4, 0.6, 1.0], (IMAGES, CLASSES)), 0)
CONFIDENCES[:, 5] = 0.4  # never true
SCORES = (0.3 * RNG.random((IMAGES, CLASSES)) + 0.4 * CONFIDENCES).astype(np.float32)
TRUTHS = CONFIDENCES >= 0.5
NAMED = TRUTHS.any(axis=0)


def measured(scores: np.ndarray, confidences: np.ndarray, batch: int = 32, **options: Any) -> MultiLabelMetrics:
    measurement = MetricsAccumulator(scores.shape[1], **options)
    for begin in range(0, len(scores), batch):
        measurement.update(scores[begin: begin + batch], confidences[begin: begin + batch])
    return measurement.result()


def exact() -> np.ndarray:
    return np.array([average_precision_score(TRUTHS[:, index], SCORES[:, index]) for index in np.flatnonzero(NAMED)])


def test_the_means_over_the_classes_and_their_base_rates() -> None:
    found, base = measured(SCORES, CONFIDENCES).summary(), TRUTHS[:, NAMED].mean(axis=0)
    weights = TRUTHS[:, NAMED].sum(axis=0)
    assert (found["images"], found["classes"]) == (IMAGES, CLASSES - 1)
    assert found["mean_average_precision_macro"] == pytest.approx(exact().mean())
    assert found["mean_average_precision_macro_error"] == pytest.approx(0, abs=1e-12)
    assert found["mean_average_precision_weighted"] == pytest.approx((exact() * weights).sum() / weights.sum())
    assert found["mean_average_precision_micro"] == pytest.approx(
        average_precision_score(TRUTHS.ravel(), SCORES.ravel()), abs=1e-3)
    assert found["base_rate"] == pytest.approx(base.mean())
    assert found["base_rate_weighted"] == pytest.approx((base * weights).sum() / weights.sum())
    assert found["base_rate_micro"] == pytest.approx(TRUTHS.mean())
    assert found["times_base_rate"] == pytest.approx(exact().mean() / base.mean())


def test_the_threshold_decides_what_is_true_and_the_score_threshold_what_is_predicted() -> None:
    confident = measured(SCORES, CONFIDENCES, threshold=1.0, score_threshold=0.6)
    assert confident.positives.tolist() == (CONFIDENCES >= 1).sum(axis=0).tolist()
    assert confident.counts.predicted.tolist() == (SCORES >= np.float32(0.6)).sum(axis=0).tolist()


def test_a_value_equal_to_a_threshold_reaches_it() -> None:
    found = measured(np.array([[0.5, 0.25]]), np.array([[0.5, 0.25]]))
    assert found.positives.tolist() == found.counts.predicted.tolist() == [1, 0]


def test_batches_do_not_matter() -> None:
    one, other = (measured(SCORES, CONFIDENCES, batch) for batch in (1, 50))
    assert one.average_precision[NAMED].tolist() == other.average_precision[NAMED].tolist()
    for cutoff, shares in one.precision_recall.items():
        assert shares == pytest.approx(other.precision_recall[cutoff])


def test_groups_are_means_over_their_classes_with_a_true_image() -> None:
    groups = measured(SCORES, CONFIDENCES).by_group(np.array([2, 2, 0, 0, 0, 2, 1, 5]))
    assert list(groups) == [0, 1, 2, 5]
    assert groups[2].classes == 2  # class 5 has no true image
    assert groups[2].true_labels == TRUTHS[:, :2].sum()
    assert groups[2].average_precision == pytest.approx(exact()[:2].mean())
    assert groups[2].base_rate == pytest.approx(TRUTHS[:, :2].mean())
    assert 5 not in measured(SCORES, CONFIDENCES).by_group(np.array([0, 0, 0, 0, 0, 5, 0, 0]))


def test_the_calibration_error_is_the_mean_distance_of_probability_and_true_share() -> None:
    metrics = measured(SCORES, CONFIDENCES)
    place = np.minimum((SCORES.astype(float) * 15).astype(int), 14)
    expected = sum(abs(SCORES[place == one].mean() - TRUTHS[place == one].mean()) * (place == one).mean()
                   for one in np.unique(place))
    assert metrics.expected_calibration_error() == pytest.approx(expected, abs=1e-3)
    found = metrics.reliability_diagram()
    assert found.decisions.tolist() == np.bincount(place.ravel())[np.unique(place)].tolist()
    np.testing.assert_allclose(found.low * 15, np.unique(place), atol=1e-9)


def test_bins_of_chosen_edges_reach_from_0_to_1_and_leave_out_empty_ones() -> None:
    found = measured(np.array([[0.001], [0.002], [0.7]]), np.array([[0], [1], [1]])).reliability_diagram(
        np.array([0.0015, 0.1, 0.5]))
    assert (found.low.tolist(), found.high.tolist()) == ([0, 0.0015, 0.5], [0.0015, 0.1, 1])
    assert (found.decisions.tolist(), found.true_share.tolist()) == ([1, 1, 1], [0, 1, 1])


def test_images_of_one_class_have_a_top_1_and_a_top_5_accuracy() -> None:
    true = RNG.integers(0, CLASSES, IMAGES)
    found = measured(SCORES, np.eye(CLASSES)[true]).summary()
    for k in (1, 5):
        expected = top_k_accuracy_score(true, SCORES, k=k, labels=range(CLASSES))
        assert found[f"top_{k}"] == pytest.approx(expected)
    assert "top_1" not in measured(SCORES, CONFIDENCES).summary()


def test_unknown_labels_count_nowhere() -> None:
    confidences = np.where(RNG.random(CONFIDENCES.shape) < 0.2, -1, CONFIDENCES)
    found = measured(SCORES, confidences, at_k=[3], score_threshold=0.25)
    known, truths = confidences >= 0, confidences >= 0.5
    assert found.known.tolist() == known.sum(axis=0).tolist()
    assert found.base_rate == pytest.approx(truths.sum(axis=0) / known.sum(axis=0))
    for index in np.flatnonzero(truths.any(axis=0)):
        rows = known[:, index]
        expected = average_precision_score(truths[rows, index], SCORES[rows, index])
        assert found.average_precision[index] == pytest.approx(expected)
    predicted = (SCORES >= 0.25) & known
    assert found.counts.predicted.tolist() == predicted.sum(axis=0).tolist()
    order = np.argsort(-np.where(known, SCORES, -1), axis=1)[:, :3]
    assert known.sum(axis=1).min() >= 3
    assert found.precision_recall["at_3"]["micro_precision"] == pytest.approx(
        np.take_along_axis(truths, order, axis=1).mean())


def test_where_fewer_than_k_classes_are_known_the_unknown_ones_are_not_predicted() -> None:
    confidences = np.full((1, 4), -1.0)
    confidences[0, 1] = 1
    found = measured(np.array([[0.9, 0.2, 0.8, 0.7]]), confidences, at_k=[2], score_threshold=0.1)
    assert [found.precision_recall[cutoff]["micro_precision"] for cutoff in ("at_2", "at_threshold")] == [1, 1]


@pytest.mark.parametrize("score", [float("nan"), 1.5, -0.1])
def test_a_score_that_is_not_a_probability_is_refused_with_its_place(score: float) -> None:
    scores = SCORES.copy()
    scores[41, 3] = score
    with pytest.raises(UserError, match=rf"gives {score:.1f}.* for class 3 of image 41, expected a probability"):
        measured(scores, CONFIDENCES)


def test_labels_of_another_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(UserError, match=r"shape \(32, 8\) and labels \(32,\), expected \[images, 8\]"):
        measured(SCORES, np.zeros(IMAGES))


def test_labels_without_a_true_one_are_refused() -> None:
    with pytest.raises(UserError, match="none of the 90 images has a class whose confidence reaches 0.5"):
        measured(SCORES, np.zeros_like(CONFIDENCES))
