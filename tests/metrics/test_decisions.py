"""Precision, recall and F1 equal scikit-learn's and those of a hand-computed example."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from mlimages.metrics.decisions import PrecisionRecallAccumulator, top_classes

# Three images, four classes. The two best classes of each: {0, 1}, {1, 3}, {2, 3}.
SCORES = np.array([[0.9, 0.6, 0.1, 0.2], [0.1, 0.8, 0.3, 0.7], [0.2, 0.1, 0.6, 0.5]], np.float32)
TRUTHS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0]], bool)


def counted(predicted: np.ndarray, truths: np.ndarray, parents: list[int] | None = None,
            batch: int = 7) -> PrecisionRecallAccumulator:
    accumulator = PrecisionRecallAccumulator(truths.shape[1], parents)
    for begin in range(0, len(truths), batch):
        image, of_class = np.nonzero(predicted[begin: begin + batch])
        accumulator.update(image, of_class, truths[begin: begin + batch])
    return accumulator


def at_k(scores: np.ndarray, truths: np.ndarray, k: int) -> dict[str, float]:
    predicted = np.zeros(truths.shape, bool)
    np.put_along_axis(predicted, top_classes(scores, k), True, axis=1)
    return counted(predicted, truths).result()


def test_at_2_of_a_hand_computed_example() -> None:
    found = at_k(SCORES, TRUTHS, 2)
    # Hits of the three images: 1 of {0, 2}, 2 of {1, 3}, 0 of {0}; of the classes: 1 of 2, 1 of 1, 0 of 1, 1 of 1.
    assert found["micro_precision"] == pytest.approx(3 / 6)
    assert found["micro_recall"] == pytest.approx(3 / 5)
    assert found["micro_f1"] == pytest.approx(6 / 11)
    assert found["macro_precision"] == pytest.approx((1 / 1 + 1 / 2 + 0 + 1 / 2) / 4)
    assert found["macro_recall"] == pytest.approx((1 / 2 + 1 + 0 + 1) / 4)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0 + 2 / 3) / 4)
    assert found["instance_precision"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["instance_recall"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["instance_f1"] == pytest.approx((2 / 4 + 4 / 4 + 0) / 3)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("kind", ["at_k", "at_threshold"])
def test_all_averages_equal_scikit_learns(kind: str, k: int) -> None:
    rng = np.random.default_rng(k)
    scores, truths = rng.random((40, 12), np.float32), rng.random((40, 12)) < 0.3
    truths[3] = False
    predicted = scores >= (np.sort(scores, axis=1)[:, -k, None] if kind == "at_k" else 1 - k / 10)
    found = counted(predicted, truths).result()
    for ours, theirs in (("micro", "micro"), ("macro", "macro"), ("instance", "samples")):
        expected = precision_recall_fscore_support(truths, predicted, average=theirs, zero_division=0)
        assert [found[f"{ours}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])


def test_macro_means_leave_out_classes_without_a_true_image() -> None:
    truths = TRUTHS & np.array([True, True, False, True])
    assert at_k(SCORES, truths, 2)["macro_recall"] == pytest.approx((1 / 2 + 1 + 1) / 3)


def test_a_k_above_the_number_of_classes_means_all_classes() -> None:
    assert at_k(SCORES, TRUTHS, 9) == at_k(SCORES, TRUTHS, 4)
    assert at_k(SCORES, TRUTHS, 9)["micro_recall"] == 1


def test_of_equal_scores_the_lower_class_comes_first() -> None:
    assert top_classes(np.array([[0.5, 0.7, 0.5, 0.7]], np.float32), 3).tolist() == [[1, 3, 0]]


def test_a_class_predicted_without_its_parent_is_counted_once_for_each_image() -> None:
    parents = [-1, 0, 1, -1]  # 0 over 1 over 2, and 3
    predicted = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    # Of a class with a parent: 1 and 2; 2 without 1; 1 without 0, and 2.
    found = counted(predicted, np.ones((4, 4), bool), parents, batch=3).result()
    assert found["without_parent"] == pytest.approx(2 / 5)
    assert "without_parent" not in counted(predicted, np.ones((4, 4), bool)).result()


def test_where_nothing_is_predicted_all_shares_are_0() -> None:
    assert set(counted(np.zeros((3, 4), bool), TRUTHS, [-1, 0, 0, 0]).result().values()) == {0}
