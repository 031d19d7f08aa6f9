"""The metrics are scikit-learn's, and what a hand computes."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_score, recall_score

from mlimages.evaluate.metrics import at_k, average_precision, per_class, precision_recall, summary

# Three images, four classes. The two best classes of each: {0, 1}, {1, 3}, {2, 3}.
SCORES = np.array([[0.9, 0.6, 0.1, 0.2], [0.1, 0.8, 0.3, 0.7], [0.2, 0.1, 0.6, 0.5]])
TRUTHS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0]], bool)


@pytest.mark.parametrize("decimals", [0, 1, 8])  # the fewer, the more ties
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_average_precision_equals_scikit_learns_with_and_without_ties(decimals: int, share: float) -> None:
    rng = np.random.default_rng(decimals)
    for _ in range(5):
        scores, truths = rng.random(200).round(decimals), rng.random(200) < share
        truths[0] = True
        assert average_precision(scores, truths) == pytest.approx(average_precision_score(truths, scores), rel=1e-12)


def test_average_precision_of_a_perfect_and_of_the_worst_ranking() -> None:
    assert average_precision(np.array([4, 3, 2, 1]), np.array([1, 1, 0, 0], bool)) == 1
    assert average_precision(np.array([4, 3, 2, 1]), np.array([0, 0, 0, 1], bool)) == 0.25


def test_where_all_scores_are_equal_average_precision_is_the_base_rate() -> None:
    assert average_precision(np.zeros(8), np.arange(8) < 2) == 0.25


def test_without_a_true_item_average_precision_is_not_a_number() -> None:
    assert np.isnan(average_precision(np.arange(3.0), np.zeros(3, bool)))


def test_precision_and_recall_have_one_step_for_each_distinct_score() -> None:
    precision, recall = precision_recall(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 0, 1, 1], bool))
    assert precision.tolist() == pytest.approx([1, 2 / 3, 3 / 4])
    assert recall.tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_at_2_of_a_hand_computed_example() -> None:
    found = at_k(SCORES, TRUTHS, 2)
    # Hits of the three images: 1 of {0, 2}, 2 of {1, 3}, 0 of {0}.
    assert found.precision == pytest.approx(3 / 6)
    assert found.recall == pytest.approx(3 / 5)
    assert found.f1 == pytest.approx(6 / 11)
    assert found.instance_precision == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found.instance_recall == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found.instance_f1 == pytest.approx((2 / 4 + 4 / 4 + 0) / 3)


def test_at_1_of_a_hand_computed_example() -> None:
    found = at_k(SCORES, TRUTHS, 1)
    assert found.precision == found.instance_precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 5)
    assert found.instance_recall == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_at_k_equals_scikit_learns_averages(k: int) -> None:
    rng = np.random.default_rng(k)
    scores, truths = rng.random((40, 12)), rng.random((40, 12)) < 0.3
    predicted = scores >= np.sort(scores, axis=1)[:, -k, None]
    found = at_k(scores, truths, k)
    for value, score, average in ((found.precision, precision_score, "micro"), (found.recall, recall_score, "micro"),
                                  (found.instance_precision, precision_score, "samples"),
                                  (found.instance_recall, recall_score, "samples")):
        assert value == pytest.approx(score(truths, predicted, average=average, zero_division=0))


def test_more_classes_asked_for_than_there_are_means_all_of_them() -> None:
    assert at_k(SCORES, TRUTHS, 9) == at_k(SCORES, TRUTHS, 4)
    assert at_k(SCORES, TRUTHS, 9).recall == 1


def test_without_a_hit_f1_is_0() -> None:
    assert at_k(SCORES, np.zeros_like(TRUTHS), 2).f1 == 0


def test_the_base_rate_is_the_share_of_true_images() -> None:
    rows = per_class(SCORES, TRUTHS)
    assert [row["images"] for row in rows] == [2, 1, 1, 1]
    assert [row["base_rate"] for row in rows] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 1 / 3])


def test_macro_means_leave_out_classes_without_a_true_image() -> None:
    truths = TRUTHS & np.array([True, True, False, True])
    found = summary(SCORES, truths, [2])
    assert (found["images"], found["classes"]) == (3, 3)
    classes = [0, 1, 3]
    macro = np.mean([average_precision_score(truths[:, one], SCORES[:, one]) for one in classes])
    assert found["mean_average_precision_macro"] == pytest.approx(macro)
    assert found["mean_average_precision_micro"] == pytest.approx(
        average_precision_score(truths.ravel(), SCORES.ravel()))
    assert found["base_rate"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)
    assert found["base_rate_micro"] == pytest.approx(4 / 12)
    assert found["at_2"] == at_k(SCORES, truths, 2)._asdict()
