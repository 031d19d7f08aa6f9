"""Average precision from histograms equals scikit-learn's: exactly for few scores, within 0.001 for binned ones."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mlimages.metrics import score_histograms
from mlimages.metrics.score_histograms import CELLS, UNKNOWN, ClassRanking, ScoreHistograms

IMAGES = 6000
# For each class: its share of the images, the centre and the spread of the log-odds of its scores, and the shift of
# true images, in spreads.
CLASSES = {"frequent": (0.9, 3, 2, 1), "usual": (0.2, -1, 1, 2), "rare": (0.001, -9, 2, 3), "useless": (0.1, -2, 1, 0),
           "all but equal": (0.3, -4, 1e-4, 1.5), "tiny and all but equal": (0.02, -17, 1e-3, 2),
           "perfect": (0.05, -6, 0.5, 20)}


def drawn(images: int = IMAGES, heavy_tails: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truths of CLASSES."""
    rng = np.random.default_rng(0)
    share, centre, spread, shift = (np.array(column) for column in zip(*CLASSES.values(), strict=True))
    truths = rng.random((images, len(CLASSES))) < share
    truths[0] = True
    draw = rng.standard_t(4, truths.shape) if heavy_tails else rng.normal(size=truths.shape)
    odds = centre + spread * (draw + shift * truths)
    return (1 / (1 + np.exp(-odds))).astype(np.float32), truths


def ranked(scores: np.ndarray, truths: np.ndarray, batch: int = 100) -> list[ClassRanking]:
    streamed = ScoreHistograms(scores.shape[1])
    for begin in range(0, len(scores), batch):
        streamed.update(scores[begin: begin + batch], truths[begin: begin + batch])
    return list(streamed.ranks())


def exact(scores: np.ndarray, truths: np.ndarray) -> list[float]:
    return [average_precision_score(truths[:, index], scores[:, index]) for index in range(scores.shape[1])]


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bins for each class are as few as with 11,166 classes."""
    monkeypatch.setattr(score_histograms, "MOST_BINS", CELLS // 11_166)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("heavy_tails", [False, True])
def test_average_precision_is_within_a_thousandth_and_within_what_is_stated(heavy_tails: bool) -> None:
    # Close bounds: bins wider than the scores need, or a worst case instead of an estimate, would fail.
    scores, truths = drawn(heavy_tails=heavy_tails)
    for name, found, expected in zip(CLASSES, ranked(scores, truths), exact(scores, truths), strict=True):
        assert abs(found.average_precision - expected) < 6e-4, name
        assert found.error < 2e-3, name
        assert abs(found.average_precision - expected) <= found.error + 1e-9, name


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("decimals", [1, 2])
def test_many_equal_scores_count_as_one_threshold_like_scikit_learns(decimals: int) -> None:
    scores, truths = drawn()
    scores = scores.round(decimals)
    np.testing.assert_allclose([one.average_precision for one in ranked(scores, truths)], exact(scores, truths), 1e-9)


def test_few_images_are_ranked_exactly_however_near_their_scores_lie() -> None:
    scores, truths = drawn(256)
    scores = np.float32(0.3) + (scores * 50).astype(np.int32) * np.float32(2**-24)
    np.testing.assert_allclose([one.average_precision for one in ranked(scores, truths)], exact(scores, truths), 1e-9)


@pytest.mark.usefixtures("coarse")
def test_a_class_with_one_true_image_is_exact_where_that_is_among_the_best() -> None:
    rng = np.random.default_rng(0)
    ranks = rng.permuted(np.tile(np.arange(IMAGES), (40, 1)), axis=1).T
    scores, truths = (0.5 + ranks * 2.0**-20).astype(np.float32), np.zeros((IMAGES, 40), bool)
    scores[ranks == 0] = 0  # far from the others, so that these share a few bins
    order = np.argsort(-scores, axis=0)
    truths[order[np.arange(40), np.arange(40)], np.arange(40)] = True
    np.testing.assert_allclose([one.average_precision for one in ranked(scores, truths)], 1 / np.arange(1, 41), 1e-9)


def test_a_bin_of_true_labels_alone_is_ranked_exactly() -> None:
    scores = np.concatenate([np.full(300, 0.9), 0.101 + 2.0**-26 * np.arange(10)]).astype(np.float32)[:, None]
    truths = np.arange(310)[:, None] >= 300
    assert ranked(scores, truths)[0].average_precision == pytest.approx(exact(scores, truths)[0], rel=1e-9)


def test_where_all_scores_are_equal_average_precision_is_the_base_rate() -> None:
    truths = np.arange(800)[:, None] < 200
    assert ranked(np.full((800, 1), 0.3, np.float32), truths)[0].average_precision == pytest.approx(0.25)


@pytest.mark.parametrize("last", [0.3, 0.9, 1e-6])
def test_a_bin_holds_more_scores_than_16_bits_can_count(last: float) -> None:
    """Also after bins were merged for a last score far away."""
    scores = np.full((140_001, 1), 0.3, np.float32)
    scores[::2] += np.float32(2**-22)  # for a while, two bins
    scores[-1] = last
    truths = np.arange(len(scores))[:, None] % 7 == 0
    found = ranked(scores, truths, 10_000)[0]
    assert abs(found.average_precision - exact(scores, truths)[0]) <= min(found.error + 1e-9, 1e-3)


def test_scores_of_0_and_1_are_scores_like_others() -> None:
    scores = np.repeat(np.array([1.0, 0.5, 0.0], np.float32), 200)[:, None]
    truths = np.arange(600)[:, None] % 3 == 0
    assert ranked(scores, truths)[0].average_precision == pytest.approx(exact(scores, truths)[0])


def test_without_a_true_image_average_precision_is_not_a_number() -> None:
    [found] = ranked(np.full((5, 1), 0.5, np.float32), np.zeros((5, 1), bool))
    assert np.isnan(found.average_precision)
    assert len(found.precision) == 0


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("arrange", [np.flipud, lambda rows: rows[np.random.default_rng(1).permutation(len(rows))]])
def test_neither_the_order_of_the_images_nor_their_batches_matter(arrange: Callable[[np.ndarray], np.ndarray]) -> None:
    scores, truths = drawn()
    # From hardly different scores to all of them: the bins must widen as they come.
    scores, truths = (rows[np.argsort(np.abs(np.log(scores[:, 1])), kind="stable")] for rows in (scores, truths))
    for one, other in zip(ranked(scores, truths), ranked(arrange(scores), arrange(truths), 333), strict=True):
        assert one.average_precision == other.average_precision
        assert one.error == other.error


def test_unknown_labels_do_not_count() -> None:
    scores, truths = drawn()
    known = np.random.default_rng(2).random(scores.shape) < 0.7
    streamed = ranked(np.where(known, scores, UNKNOWN), truths & known)
    for index, found in enumerate(streamed):
        rows = known[:, index]
        expected = average_precision_score(truths[rows, index], scores[rows, index])
        assert found.average_precision == pytest.approx(expected, abs=1e-3)


def test_precision_and_recall_are_those_at_each_true_label() -> None:
    scores = np.array([[0.9], [0.5], [0.5], [0.1]], np.float32)
    [found] = ranked(scores, np.array([[True], [False], [True], [True]]))
    assert found.precision.tolist() == pytest.approx([1, 2 / 3, 3 / 4])
    assert found.recall.tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_all_classes_together_are_ranked_like_one() -> None:
    scores, truths = drawn()
    streamed = ScoreHistograms(scores.shape[1])
    streamed.update(scores, truths)
    odds, counts, true = streamed.pooled()
    assert (counts.sum(), true.sum()) == (scores.size, truths.sum())
    assert np.all(np.diff(odds) > 0)
    hits, below = true[::-1].cumsum(), counts[::-1].cumsum()
    assert np.sum(hits / below * true[::-1]) / hits[-1] == pytest.approx(
        average_precision_score(truths.ravel(), scores.ravel()), abs=1e-3)


def test_memory_does_not_grow_with_the_images_beyond_their_true_labels() -> None:
    scores, truths = np.random.default_rng(0).random((500, 200), np.float32), np.zeros((500, 200), bool)
    truths[:, 0] = True
    streamed = ScoreHistograms(200)
    streamed.update(scores, truths)
    tracemalloc.start()
    for _ in range(20):
        streamed.update(scores, truths)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20 * 500 * 8 + 50_000  # scores and truths of these images would be 10 MB


def test_the_bins_of_the_released_classes_take_128_megabytes() -> None:
    streamed = ScoreHistograms(11_166)
    assert 5000 * 11_166 < streamed._counts.size and streamed._counts.nbytes <= 128e6
