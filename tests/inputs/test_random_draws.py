"""The random parameters of a record are distributed evenly over the released program's ranges."""

import math

import numpy as np
import pytest

from mlimages.inputs.random_draws import OPERATION_NAMES, draw_augmentation

RECORDS = 20_000
ALL = draw_augmentation(0, 0, RECORDS)


@pytest.mark.parametrize(("column", "least", "most"), [
    ("crop", 0, 1), ("place", 0, 1), ("angle", -math.pi / 4, math.pi / 4), ("brightness", -32 / 255, 32 / 255),
    ("saturation", 0.5, 1.5), ("hue", -0.2, 0.2), ("contrast", 0.5, 1.5), ("seeds", 0, 2**31)])
def test_a_column_is_spread_evenly_over_the_released_range(column: str, least: float, most: float) -> None:
    found = getattr(ALL, column).reshape(RECORDS, -1)
    near = (most - least) / 500  # a chance of e**-40 to have none so near to an end
    assert (least <= found).all() and (found <= most).all()
    assert (found.min(axis=0) < least + near).all() and (found.max(axis=0) > most - near).all()
    standard_error = (most - least) / math.sqrt(12 * RECORDS)
    np.testing.assert_allclose(found.mean(axis=0), (least + most) / 2, rtol=0, atol=5 * standard_error)


@pytest.mark.parametrize(("column", "kinds"), [("flip", 2), ("case", 3), ("operations", len(OPERATION_NAMES))])
def test_every_choice_is_as_frequent_as_the_others(column: str, kinds: int) -> None:
    for found in getattr(ALL, column).reshape(RECORDS, -1).astype(int).T:
        counts = np.bincount(found)
        assert len(counts) == kinds
        np.testing.assert_allclose(counts, RECORDS / kinds, rtol=0, atol=5 * math.sqrt(RECORDS / kinds))


def test_no_two_columns_are_the_same_draw() -> None:
    columns = np.column_stack([column.reshape(RECORDS, -1).astype(float) for column in ALL])
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 5 / math.sqrt(RECORDS)
