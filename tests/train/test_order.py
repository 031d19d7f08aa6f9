"""The order of the records is arithmetic: a function of seed and place, mixed, and every record once an epoch."""

import numpy as np
import pytest

from mlimages.train.order import INTERLEAVED, Order

COUNTS = [7, 1, 12, 12, 0, 5, *[3] * 20]
TOTAL = sum(COUNTS)


def numbers(positions: np.ndarray, counts: list[int]) -> list[int]:
    """The records' numbers over all shards."""
    starts = np.cumsum([0, *counts])
    return (starts[positions[:, 0]] + positions[:, 1]).tolist()


@pytest.mark.parametrize("window", [1, 10, 1000])
def test_every_epoch_has_every_record_once_in_an_order_of_its_own(window: int) -> None:
    order = Order(COUNTS, 5, window)
    epochs = [numbers(order.positions(epoch * TOTAL, (epoch + 1) * TOTAL), COUNTS) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(TOTAL)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_any_part_of_the_order_can_be_asked_for_alone() -> None:
    whole = Order(COUNTS, 5, 10).positions(0, 3 * TOTAL)
    for first, last in ((0, 1), (9, 11), (TOTAL - 3, TOTAL + 4), (2 * TOTAL, 2 * TOTAL), (17, 3 * TOTAL)):
        np.testing.assert_array_equal(Order(COUNTS, 5, 10).positions(first, last), whole[first:last])


def test_the_seed_and_the_window_decide_the_order() -> None:
    one, other, wider = (numbers(Order(COUNTS, seed, window).positions(0, TOTAL), COUNTS)
                         for seed, window in ((5, 10), (6, 10), (5, 40)))
    assert one != other and one != wider


def test_shards_of_a_group_take_turns_for_as_long_as_they_have_records() -> None:
    counts = [3, 1, 2]
    found = Order(counts, 0, 1).positions(0, 6)
    shards = found[:, 0].tolist()
    assert sorted(shards[:3]) == [0, 1, 2] and sorted(shards[3:5]) == [0, 2] and shards[5] == 0
    for shard, count in enumerate(counts):
        assert found[found[:, 0] == shard, 1].tolist() == list(range(count))


def test_an_epoch_begins_with_records_of_as_many_shards_as_are_interleaved() -> None:
    found = Order([100] * 50, 0, 1).positions(0, 100 * INTERLEAVED)
    assert len(set(found[:, 0].tolist())) == INTERLEAVED


def test_the_memory_does_not_grow_with_the_records() -> None:
    found = Order([20_000] * 1000, 0, 1000).positions(7_654_321_987, 7_654_322_019)
    assert found.shape == (32, 2)


def test_the_first_tenth_of_an_epoch_is_a_fair_sample_of_the_classes() -> None:
    """Records as convert leaves them, mixed over the shards: a chi-square test at the 0.001 level, for ten seeds."""
    shards, each, classes = 64, 500, 40
    rng = np.random.default_rng(0)
    frequency = rng.dirichlet(np.full(classes, 3.0))
    of_class = rng.permutation(np.repeat(np.arange(classes), rng.multinomial(shards * each, frequency)))
    share = np.bincount(of_class, minlength=classes) / (shards * each)
    first = shards * each // 10
    for seed in range(10):
        found = numbers(Order([each] * shards, seed, 2000).positions(0, first), [each] * shards)
        seen = np.bincount(of_class[found], minlength=classes)
        chi_square = np.sum((seen - first * share) ** 2 / (first * share))
        assert chi_square < 72.1, seed  # the 0.999 quantile for 39 degrees of freedom


def test_a_window_mixes_what_lies_within_it() -> None:
    """Shards that are sorted by class: within a window the order tells nothing of the class."""
    order = Order([1000] * 4, 3, 4000)
    found = order.positions(0, 4000)
    first_half = found[:2000, 1]
    assert abs(first_half.mean() - 499.5) < 5 * 1000 / np.sqrt(12 * 2000)
