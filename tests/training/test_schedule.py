"""The learning rate takes the released program's values, and scales to other batches and lengths."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from dvc.utils.hydra import apply_overrides

from mlimages.core.params import Train, load
from mlimages.training.schedule import Schedule, build_schedule

ROOT = Path(__file__).parents[2]
RELEASED = Schedule(0.08, 35_200, 440_000, "step", (110_000, 220_000, 330_000))


@pytest.mark.parametrize("stair", range(8))
def test_warm_up_climbs_the_released_stairs(stair: int) -> None:
    # The released script gives the factor as 1.297, which is 8 ** (1 / 8) to four digits.
    for step in (4400 * stair, 4400 * stair + 4399):
        assert float(RELEASED(step)) == pytest.approx(0.01 * 1.297**stair, rel=1e-3)


@pytest.mark.parametrize("step, rate", [
    (35_200, 0.08), (109_999, 0.08), (110_000, 0.008), (219_999, 0.008), (220_000, 0.0008), (329_999, 0.0008),
    (330_000, 0.00008), (439_999, 0.00008)])
def test_the_rate_falls_to_a_tenth_at_the_released_steps(step: int, rate: float) -> None:
    assert float(RELEASED(step)) == pytest.approx(rate, rel=1e-5)


def test_cosine_starts_at_the_rate_passes_its_half_and_ends_near_0() -> None:
    plan = Schedule(0.4, 100, 1100, "cosine", ())
    assert float(plan(100)) == pytest.approx(0.4)
    assert float(plan(600)) == pytest.approx(0.2)
    assert 0 <= float(plan(1099)) < 1e-5
    rates = [float(plan(step)) for step in range(100, 1100, 50)]
    assert rates == sorted(rates, reverse=True)


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert float(Schedule(0.4, 0, 10, "cosine", ())(0)) == pytest.approx(0.4)


def test_epochs_become_the_nearest_number_of_batches(small_train: Train) -> None:
    params = dataclasses.replace(small_train, batch=32, epochs=6.0, warmup=0.5, schedule="step",
                                 step_boundaries=[2.0, 4.0])
    plan = build_schedule(params, records=1_000)
    assert (plan.warmup_steps, plan.total_steps, plan.boundaries) == (16, 188, (62, 125))


def test_in_steps_the_schedule_is_the_released_one_whatever_the_number_of_images(small_train: Train) -> None:
    params = dataclasses.replace(small_train, epochs=None, steps=440_000, warmup=35_200.0, learning_rate=0.08,
                                 schedule="step", step_boundaries=[110_000.0, 220_000.0, 330_000.0])
    assert build_schedule(params, records=123) == build_schedule(params, records=10**7) == RELEASED


def test_params_full_txt_makes_params_yaml_the_released_training(tmp_path: Path) -> None:
    """DVC itself reads the options."""
    path = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    options = (ROOT / "params-full.txt").read_text().split()
    assert set(options[::2]) == {"-S"}
    apply_overrides(path, options[1::2])
    full, demo = load(path), load(ROOT / "params.yaml")
    evaluate = dataclasses.replace(demo.evaluate, central_fraction=0.8)
    assert (full.acquire.source, full.evaluate, full.machine) == ("full", evaluate, demo.machine)
    assert build_schedule(full.train, records=17_609_752) == RELEASED
    expected = {"architecture": "resnet101", "pixels": 224, "batch": 4096, "momentum": 0.9, "weight_decay": 1e-4,
                "batch_norm_momentum": 0.997, "loss": "class_balanced", "positive_threshold": 0.7,
                "negative_selection": 0.1, "positive_weight": 12.0, "crop_area": [0.7, 1.0],
                "optimizer": "momentum", "zero_init_residual": False, "validation_fraction": 0.8,
                "rotate_and_color_jitter": True, "reference_batch": None, "clip_norm": None, "ema_decay": None}
    assert {name: getattr(full.train, name) for name in expected} == expected


def test_even_a_fraction_of_a_batch_is_a_step(small_train: Train) -> None:
    assert build_schedule(dataclasses.replace(small_train, epochs=0.01, warmup=0.0), records=24).total_steps == 1


def test_with_a_reference_batch_the_rate_grows_linearly_with_the_batch(small_train: Train) -> None:
    params = dataclasses.replace(small_train, batch=8, learning_rate=0.08, reference_batch=4096)
    assert build_schedule(params, records=24).rate == pytest.approx(0.08 * 8 / 4096)
    assert build_schedule(dataclasses.replace(params, batch=4096), records=24).rate == pytest.approx(0.08)


def test_the_rates_of_many_steps_are_those_of_each() -> None:
    steps = range(109_998, 110_003)
    np.testing.assert_array_equal(RELEASED(steps), [RELEASED(step) for step in steps])
