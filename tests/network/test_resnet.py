"""The network has the weights and the outputs of the released one."""

import ast
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlimages.network.layers import FEW_POSITIONS, Convolution, FusedBatchNormalization
from mlimages.network.resnet import DEPTHS, build, resnet

SOURCE = Path(__file__).parents[2] / "src" / "mlimages"


def test_the_architectures_differ_in_depth_alone() -> None:
    assert DEPTHS == {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@pytest.mark.parametrize("name, architecture", [("resnet50", 50), ("resnet101", 101), ("resnet152", 152)])
def test_the_parameter_names_the_architecture(name: str, architecture: int) -> None:
    blocks = {layer.name.rpartition("_conv")[0] for layer in build(name, 3).layers if "_conv3_b2" in layer.name}
    assert blocks == {f"stages_{stage}_block_{index}" for stage, count in enumerate(DEPTHS[architecture])
                      for index in range(count)}


def test_batch_norm_has_the_released_constants_and_the_momentum_asked_for() -> None:
    released = resnet((1,), 3, width=8).get_layer("global_pool_bn")
    assert (released.momentum, released.epsilon) == (0.997, 1e-5)
    assert build("tiny", 3, batch_norm_momentum=0.5).get_layer("stages_0_block_0_conv1_b1_bn").momentum == 0.5


def test_blocks_that_start_as_the_identity_leave_a_network_of_first_blocks() -> None:
    """The first block of each stage is unchanged, since its shortcut alone would skip three of four pixels."""
    deep, shallow = (resnet(depth, 3, width=8, zero_init_residual=True) for depth in ((2, 3), (1, 1)))
    for layer in shallow.layers:
        layer.set_weights(deep.get_layer(layer.name).get_weights() if layer.weights else [])
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(deep(images), shallow(images), rtol=1e-5)
    zeros = {layer.name for layer in deep.layers if layer.name.endswith("_conv3_b2") and not layer.kernel.numpy().any()}
    assert zeros == {f"stages_{stage}_block_{block}_conv3_b2" for stage, block in ((0, 1), (1, 1), (1, 2))}


def test_every_stage_halves_the_sides() -> None:
    model = build("tiny", 3)
    shapes = keras.Model(model.input, model.get_layer("global_pool_bn").output)(np.zeros((1, 64, 48, 3), np.float32))
    assert shapes.shape[1:3] == (64 // 2**3, 48 // 2**3)  # the stem, then two stages


def both_layers(momentum: float = 0.9) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """The stock layer and the fused one, with the same weights."""
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=6), rng.normal(size=6), rng.normal(size=6), rng.uniform(0.5, 2, size=6)]
    stock, fused = (kind(momentum=momentum, epsilon=1e-5) for kind in (keras.layers.BatchNormalization,
                                                                       FusedBatchNormalization))
    for layer in (stock, fused):
        layer.build((None, 5, 7, 6))
        layer.set_weights(weights)
    return stock, fused


@pytest.mark.parametrize("training", [True, False])
def test_fused_batch_norm_puts_out_what_the_stock_layer_does(training: bool) -> None:
    stock, fused = both_layers()
    images = np.random.default_rng(2).normal(3, 2, (4, 5, 7, 6)).astype(np.float32)
    np.testing.assert_allclose(fused(images, training=training), stock(images, training=training), atol=1e-5)


def test_fused_batch_norm_keeps_the_mean_and_the_unbiased_variance() -> None:
    stock, fused = both_layers()
    before = stock.moving_variance.numpy()
    images = np.random.default_rng(2).normal(3, 2, (4, 5, 7, 6)).astype(np.float32)
    stock(images, training=True)
    fused(images, training=True)
    items = 4 * 5 * 7
    np.testing.assert_allclose(fused.moving_mean, stock.moving_mean, rtol=1e-5)
    added_stock, added_fused = (layer.moving_variance.numpy() - 0.9 * before for layer in (stock, fused))
    np.testing.assert_allclose(added_fused, added_stock * items / (items - 1), rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_outside_training_and_while_it_is_frozen_batch_norm_keeps_its_statistics(training: bool) -> None:
    _, fused = both_layers()
    before = fused.get_weights()
    fused.trainable = not training
    fused(np.ones((4, 5, 7, 6), np.float32), training=training)
    for one, other in zip(fused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("batch", [2, 64])
def test_a_convolution_gives_and_learns_what_the_stock_layer_does(monkeypatch: pytest.MonkeyPatch, kernel: int,
                                                                  strides: int, avx512: bool, batch: int) -> None:
    """On CPUs, kernels of one pixel are products of matrices, and so are gradients of kernels with few positions.

    With AVX-512 all gradients of kernels of one pixel are products. The test finds them in TensorFlow's graph.
    """
    monkeypatch.setattr("mlimages.network.layers.onednn_uses_avx512", lambda: avx512)
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(kernel, kernel, 6, 4))
    images = rng.normal(size=(batch, 5, 7, 6)).astype(np.float32)
    found = []
    for kind in (keras.layers.Conv2D, Convolution):
        layer = kind(4, kernel, strides, padding="valid" if strides > 1 else "same", use_bias=False)
        layer.build((None, None, None, 6))
        layer.set_weights([weights])
        with tf.GradientTape() as tape:
            given = tf.constant(images)
            tape.watch(given)
            outputs = layer(given)
            cost = tf.reduce_sum(outputs**2)
        found.append([outputs, *tape.gradient(cost, [given, layer.kernel.value])])

    def slopes(given: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            cost = tf.reduce_sum(layer(given))
        return tape.gradient(cost, layer.kernel.value)

    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-3)
    few = math.prod(outputs.shape[:-1]) < FEW_POSITIONS
    for size, is_product in ((batch, few or (avx512 and kernel == 1)), (None, avx512 and kernel == 1)):
        run = [{node.type for node in tf.function(what).get_concrete_function(
            tf.TensorSpec([size, 5, 7, 6])).graph.get_operations()} for what in (layer, slopes)]
        assert ("MatMul" in run[0]) == (kernel == 1)
        assert ("Conv2DBackpropFilter" in run[1]) != is_product


def test_a_depth_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="depth is 34, expected one of .50, 101, 152. or the number of blocks"):
        resnet(34, 3)


def test_the_features_are_the_means_before_the_logits() -> None:
    assert resnet((1, 1, 1, 1), 3).get_layer("features").output.shape == (None, 2048)


def test_kernels_begin_with_a_variance_of_one_over_their_inputs_and_no_outliers() -> None:
    keras.utils.set_random_seed(0)
    kernel = build("tiny", 3).get_layer("stages_1_block_0_conv2_b2").get_weights()[0]
    drawn = kernel * np.sqrt(np.prod(kernel.shape[:-1]))
    assert drawn.std() == pytest.approx(1, rel=0.05)
    assert np.abs(drawn).max() < 2.3  # cut at two deviations, which makes what remains narrower by 0.88


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_in_mixed_precision_weights_features_and_logits_stay_float32(dtype: str) -> None:
    model = resnet((1, 1), 3, width=8, dtype=dtype)
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert model.get_layer("stages_0_block_0_conv1_b2").compute_dtype == dtype.removeprefix("mixed_")
    assert model.get_layer("features").compute_dtype == "float32"
    plain = resnet((1, 1), 3, width=8)
    plain.set_weights(model.get_weights())
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    assert model(images).dtype == "float32"
    difference = np.abs(model(images, training=True) - plain(images, training=True)).max()
    assert 0 < difference < 0.1 * np.abs(plain(images, training=True)).max()


def test_a_network_with_the_fused_layer_is_saved_and_loaded_without_code(tmp_path: Path) -> None:
    model = resnet((1, 1), 3, width=8)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert isinstance(loaded.get_layer("global_pool_bn"), FusedBatchNormalization)
    images = np.ones((1, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.parametrize("module", ["network/resnet", "training/losses"])
def test_the_network_and_the_loss_are_written_in_keras_alone(module: str) -> None:
    imports = [node for node in ast.walk(ast.parse((SOURCE / f"{module}.py").read_text()))
               if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    assert "keras" in names
    assert not any(name.startswith("tensorflow") for name in names)
