"""The order of the records depends only on the seed. It is mixed, and has every record once in an epoch."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mlimages.convert.members import ROW, shuffle
from mlimages.inputs.sampler import INTERLEAVED, RecordSampler

COUNTS = [7, 1, 12, 12, 0, 5, *[3] * 20]
TOTAL = sum(COUNTS)


def numbers(positions: np.ndarray, counts: list[int]) -> list[int]:
    """The numbers of the records, counted over all shards."""
    starts = np.cumsum([0, *counts])
    return (starts[positions[:, 0]] + positions[:, 1]).tolist()


@pytest.mark.parametrize("window", [1, 10, 1000])
def test_every_epoch_has_every_record_once_in_an_order_of_its_own(window: int) -> None:
    order = RecordSampler(COUNTS, 5, window)
    epochs = [numbers(order.positions(epoch * TOTAL, (epoch + 1) * TOTAL), COUNTS) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(TOTAL)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_any_part_of_the_order_can_be_asked_for_alone() -> None:
    whole = RecordSampler(COUNTS, 5, 10).positions(0, 3 * TOTAL)
    for first, last in ((0, 1), (9, 11), (TOTAL - 3, TOTAL + 4), (2 * TOTAL, 2 * TOTAL), (17, 3 * TOTAL)):
        np.testing.assert_array_equal(RecordSampler(COUNTS, 5, 10).positions(first, last), whole[first:last])


def test_the_seed_and_the_window_decide_the_order() -> None:
    one, other, wider = (numbers(RecordSampler(COUNTS, seed, window).positions(0, TOTAL), COUNTS)
                         for seed, window in ((5, 10), (6, 10), (5, 40)))
    assert one != other and one != wider


def test_shards_of_a_group_take_turns_for_as_long_as_they_have_records() -> None:
    counts = [3, 1, 2]
    found = RecordSampler(counts, 0, 1).positions(0, 6)
    shards = found[:, 0].tolist()
    assert sorted(shards[:3]) == [0, 1, 2] and sorted(shards[3:5]) == [0, 2] and shards[5] == 0
    for shard, count in enumerate(counts):
        assert found[found[:, 0] == shard, 1].tolist() == list(range(count))


def test_an_epoch_begins_with_records_of_as_many_shards_as_are_interleaved() -> None:
    found = RecordSampler([100] * 50, 0, 1).positions(0, 100 * INTERLEAVED)
    assert len(set(found[:, 0].tolist())) == INTERLEAVED


def peak_bytes(each: int) -> int:
    """The peak memory to find a batch far from the beginning, with `each` records in each of 1,000 shards."""
    tracemalloc.start()
    try:
        RecordSampler([each] * 1000, 0, 1000).positions(7_654_321_987, 7_654_322_019)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_does_not_grow_with_the_records() -> None:
    few, many = peak_bytes(200), peak_bytes(2_000_000)
    assert many < 1_000_000 and many < 1.2 * few


SHARDS, EACH, CLASSES = 64, 500, 40
FIRST = SHARDS * EACH // 10


@pytest.fixture
def sorted_classes() -> np.ndarray:
    """The class of each line of a list that is sorted by class; frequencies differ. int64 [lines]."""
    rng = np.random.default_rng(0)
    frequency = rng.dirichlet(np.full(CLASSES, 3.0))
    return np.repeat(np.arange(CLASSES), rng.multinomial(SHARDS * EACH, frequency))


def mixed(of_class: np.ndarray, folder: Path, seed: int) -> np.ndarray:
    """The class of each record after convert has shuffled the records."""
    rows = np.zeros(len(of_class), ROW)
    rows["line"] = of_class
    rows.tofile(folder / "train.listed")
    shuffle(folder, "train", seed)
    return np.fromfile(folder / "train.rows", ROW)["line"].astype(np.int64)


def first_tenth(seed: int, epoch: int = 0) -> list[int]:
    begin = epoch * SHARDS * EACH
    return numbers(RecordSampler([EACH] * SHARDS, seed, 2000).positions(begin, begin + FIRST), [EACH] * SHARDS)


def chi_square(of_class: np.ndarray, seed: int) -> float:
    """The chi-square statistic of the classes in an epoch's first tenth."""
    expected = np.bincount(of_class) / 10
    return float(np.sum((np.bincount(of_class[first_tenth(seed)], minlength=CLASSES) - expected) ** 2 / expected))


def test_the_first_tenth_of_an_epoch_is_a_fair_sample_of_a_list_sorted_by_class(sorted_classes: np.ndarray,
                                                                              tmp_path: Path) -> None:
    """By a chi-square test at the 0.001 level, for ten seeds. Without convert's shuffling the test fails clearly."""
    level = 72.1  # the 0.999 quantile for 39 degrees of freedom
    for seed in range(10):
        assert chi_square(mixed(sorted_classes, tmp_path, seed), seed) < level, seed
        assert chi_square(sorted_classes, seed) > 10 * level


def test_every_epoch_begins_with_other_shards() -> None:
    seen = {number for epoch in range(10) for number in first_tenth(0, epoch)}
    assert len(seen) > 3 * FIRST


def test_a_window_mixes_what_lies_within_it() -> None:
    """The shards are sorted by class. Within a window the order does not depend on the class."""
    order = RecordSampler([1000] * 4, 3, 4000)
    found = order.positions(0, 4000)
    first_half = found[:2000, 1]
    assert abs(first_half.mean() - 499.5) < 5 * 1000 / np.sqrt(12 * 2000)
