"""The optimizer equals TensorFlow 1's momentum, and its further options have their documented effects."""

import keras
import numpy as np
import pytest

from mlimages.network.resnet import build
from mlimages.training.optimizer import FIRST_SCALE, AdamW, LossScale, Momentum, WeightAverage, all_finite


def weight(*values: float, name: str = "kernel") -> keras.Variable:
    return keras.Variable(np.array(values, np.float32), name=name)


def test_momentum_applies_a_dropped_rate_to_the_whole_velocity_at_once() -> None:
    position = weight(0.0)
    optimizer = Momentum([position], 0.9)
    positions = []
    for rate in (1.0, 1.0, 0.1):
        optimizer.apply([keras.ops.ones(1)], rate)
        positions.append(float(position[0]))
    # Velocities 1, 1.9, 2.71.
    assert np.diff(positions, prepend=0.0) == pytest.approx([-1.0, -1.9, -0.271], rel=1e-5)


def test_weight_decay_pulls_all_but_batch_norms_weights() -> None:
    weights = [weight(2.0, name=name) for name in ("kernel", "bias", "gamma", "beta")]
    Momentum(weights, 0.0, weight_decay=0.1).apply([keras.ops.zeros(1)] * 4, 1.0)
    assert [float(one[0]) for one in weights] == pytest.approx([1.8, 1.8, 2.0, 2.0])


def test_batch_norms_weights_have_a_weight_decay_of_their_own() -> None:
    weights = [weight(2.0, name=name) for name in ("kernel", "gamma")]
    Momentum(weights, 0.0, weight_decay=0.1, batch_norm_weight_decay=0.01).apply([keras.ops.zeros(1)] * 2, 1.0)
    assert [float(one[0]) for one in weights] == pytest.approx([1.8, 1.98])


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_with_layer_decay_each_block_has_a_smaller_rate_than_the_one_above(optimizer: str) -> None:
    network = build("tiny", 3)
    before = [variable.numpy() for variable in network.trainable_variables]
    weights = network.trainable_variables
    chosen = (Momentum(weights, 0.9, layer_decay=0.5) if optimizer == "momentum"
              else AdamW(weights, 0.9, 0.99, layer_decay=0.5))
    chosen.apply([keras.ops.ones(one.shape) for one in before], 1.0)
    moved = {variable.path.partition("/")[0]: float(np.abs(variable.numpy() - value).max())
             for variable, value in zip(weights, before, strict=True)}
    relative = {layer: moved[layer] / moved["logits"] for layer in moved}
    assert relative["global_pool_bn"] == pytest.approx(0.5, rel=1e-4)
    assert relative["stages_1_block_0_conv3_b2"] == pytest.approx(0.5, rel=1e-4)
    assert relative["stages_0_block_0_conv2_b2_bn"] == pytest.approx(0.25, rel=1e-4)
    assert relative["init_conv"] == pytest.approx(0.125, rel=1e-4)


@pytest.mark.parametrize("norm, expected", [(1.0, [-0.6, -0.8]), (10.0, [-3.0, -4.0])])
def test_clipping_bounds_the_norm_of_all_gradients_together(norm: float, expected: list[float]) -> None:
    weights = [weight(0.0), weight(0.0)]
    Momentum(weights, 0.0, clip_norm=norm).apply([keras.ops.full((1,), 3.0), keras.ops.full((1,), 4.0)], 1.0)
    assert [float(one[0]) for one in weights] == pytest.approx(expected)


def test_clipping_bounds_the_gradient_of_the_weight_decay_too() -> None:
    weights = [weight(3.0), weight(4.0)]
    Momentum(weights, 0.5, weight_decay=1.0, clip_norm=1.0).apply([keras.ops.zeros(1)] * 2, 1.0)
    assert [float(one[0]) for one in weights] == pytest.approx([3 - 0.6, 4 - 0.8])


def test_without_momentum_earlier_gradients_have_no_effect() -> None:
    position = weight(0.0)
    optimizer = Momentum([position], 0.0)
    for gradient in (1.0, 0.0):
        optimizer.apply([keras.ops.full((1,), gradient)], 1.0)
    assert float(position[0]) == -1.0


def test_adamw_equals_that_of_keras_except_for_weight_decay_of_batch_norm() -> None:
    ours, theirs = ([weight(2.0, -1.0, name=name) for name in ("kernel", "gamma")] for _ in range(2))
    rivals = [keras.optimizers.AdamW(0.1, weight_decay=decay, beta_1=0.8, beta_2=0.95, epsilon=1e-7)
              for decay in (0.3, 0.0)]
    optimizer = AdamW(ours, 0.8, 0.95, weight_decay=0.3)
    generator = np.random.default_rng(0)
    for _ in range(5):
        gradients = [keras.ops.convert_to_tensor(generator.normal(size=2).astype(np.float32)) for _ in ours]
        optimizer.apply(gradients, 0.1)
        for rival, one, gradient in zip(rivals, theirs, gradients, strict=True):
            rival.apply([gradient], [one])
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5)
    assert int(optimizer.step) == 5 and len(optimizer.variables) == 5


def test_adamw_clips_the_norm_of_all_gradients_together() -> None:
    ones, others = ([weight(0.0), weight(0.0)] for _ in range(2))
    AdamW(ones, 0.9, 0.99, clip_norm=1.0).apply([keras.ops.full((1,), 3e-6), keras.ops.full((1,), 4.0)], 1.0)
    AdamW(others, 0.9, 0.99).apply([keras.ops.full((1,), 7.5e-7), keras.ops.full((1,), 1.0)], 1.0)
    assert [float(one[0]) for one in ones] == pytest.approx([float(other[0]) for other in others], rel=1e-4)


def test_an_overflow_halves_the_loss_scale_and_gradients_are_divided_by_it() -> None:
    scale = LossScale()
    finite = all_finite([keras.ops.ones(1), keras.ops.full((2,), np.inf)])
    assert not finite
    scale.update(finite)
    assert (float(scale.scale), int(scale.good_steps)) == (FIRST_SCALE / 2, 0)
    [gradient] = scale.unscale([keras.ops.full((1,), FIRST_SCALE)])
    assert float(gradient[0]) == 2.0
    scale.update(all_finite([gradient]))
    assert (float(scale.scale), int(scale.good_steps)) == (FIRST_SCALE / 2, 1)


def test_an_overflow_ends_a_row_of_good_steps_and_the_scale_falls_to_1_at_least() -> None:
    scale = LossScale()
    scale.scale.assign(1.0)
    scale.good_steps.assign(1998)
    assert scale.update(all_finite([keras.ops.full((1,), np.nan)]))
    assert (float(scale.scale), int(scale.good_steps)) == (1.0, 0)


@pytest.mark.parametrize("before, gradient", [(2.0, np.inf), (1.0, 1.0)])
def test_an_overflow_is_not_reported_while_the_scale_can_fall(before: float, gradient: float) -> None:
    scale = LossScale()
    scale.scale.assign(before)
    assert not scale.update(all_finite([keras.ops.full((1,), gradient)]))
    assert float(scale.scale) == 1.0


def test_the_loss_scale_doubles_after_many_good_steps() -> None:
    scale = LossScale()
    scale.good_steps.assign(1999)
    scale.update(all_finite([keras.ops.ones(1)]))
    assert (float(scale.scale), int(scale.good_steps)) == (2 * FIRST_SCALE, 0)


def test_the_average_forgets_the_first_weights_and_then_follows_slowly() -> None:
    position = weight(0.0)
    average = WeightAverage([position], 0.7)
    expected, steps = 0.0, range(1, 30)
    for step in steps:
        position.assign([float(step)])
        average.update()
        kept = min(0.7, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * step
        assert float(average.averages[0][0]) == pytest.approx(expected)
    assert int(average.step) == len(steps)
