"""The network is the released one, weight for weight and number for number."""

import re
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest

from mlimages.train.resnet import DEPTHS, FusedBatchNormalization, build, resnet

REFERENCE = Path(__file__).parents[1] / "fixtures" / "resnet50_64px.npz"


def released_name(path: str) -> str:
    """A Keras path, such as stages_0_block_0_conv1_b1_bn/gamma, as the released checkpoint names the variable."""
    layer, variable = path.split("/")
    if layer == "init_conv":
        scope = "init/init_conv/conv2d"
    elif layer == "global_pool_bn":
        scope = "global_pool/bn/batch_normalization"
    elif layer == "logits":
        scope = "logits/dense"
    else:
        block, name = re.fullmatch(r"(stages_\d+_block_\d+)_(\w+)", layer).groups()  # type: ignore[union-attr]
        scope = f"{block}/{name}/{'batch_normalization' if name.endswith('_bn') else 'conv2d'}"
    return f"{scope}/{variable}"


def released_names(depth: int) -> set[str]:
    """All variable names of the released graph."""
    norm = [f"batch_normalization/{one}" for one in ("gamma", "beta", "moving_mean", "moving_variance")]
    names = {"init/init_conv/conv2d/kernel", "logits/dense/kernel", "logits/dense/bias"}
    names |= {f"global_pool/bn/{one}" for one in norm}
    for stage, blocks in enumerate(DEPTHS[depth]):
        for block in range(blocks):
            layers = ["conv1_b2", "conv2_b2", "conv3_b2"] + (["conv1_b1"] if block == 0 else [])
            for layer in layers:
                names.add(f"stages_{stage}_block_{block}/{layer}/conv2d/kernel")
                names |= {f"stages_{stage}_block_{block}/{layer}_bn/{one}" for one in norm}
    return names


def reference_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight that the reference was computed with: normal draws seeded by the name, scaled by its kind."""
    draws = np.random.RandomState(zlib.crc32(name.encode()) & (2**31 - 1)).randn(*shape)
    kind = name.rpartition("/")[2]
    if kind == "kernel":
        draws *= (0.2 if "conv3_b2" in name else 1.0) * np.sqrt(2.0 / np.prod(shape[:-1]))
    elif kind == "gamma":
        draws = 1 + 0.1 * draws
    elif kind == "moving_variance":
        draws = 1 + 0.1 * np.abs(draws)
    else:
        draws = 0.1 * draws
    return draws.astype(np.float32)


@pytest.mark.parametrize("batch_norm", [keras.layers.BatchNormalization, FusedBatchNormalization])
def test_resnet50_computes_what_the_released_program_does(batch_norm: type[keras.layers.BatchNormalization]) -> None:
    model = resnet(50, 17, batch_norm=batch_norm)
    for variable in model.variables:
        variable.assign(reference_weight(released_name(variable.path), variable.shape))
    images = np.random.RandomState(7).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    features, logits = keras.Model(model.input, [model.get_layer("features").output, model.output])(images)
    with np.load(REFERENCE) as expected:
        for found, wanted in ((logits, expected["logits"]), (features, expected["feat"])):
            found = keras.ops.convert_to_numpy(found)
            assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_resnet101_has_the_released_variables_and_no_other() -> None:
    model = build("resnet101", 17)
    names = [released_name(variable.path) for variable in model.variables]
    assert set(names) == released_names(101)
    # Counted from the variables of the released graph for 17 classes, as its checkpoint stores them.
    assert len(names) == 522
    assert model.count_params() == 42_632_401


def test_the_architectures_differ_in_depth_alone() -> None:
    assert DEPTHS == {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def test_batch_norm_has_the_released_constants_and_the_momentum_asked_for() -> None:
    released = resnet((1,), 3, width=8).get_layer("global_pool_bn")
    assert (released.momentum, released.epsilon) == (0.997, 1e-5)
    assert build("tiny", 3, batch_norm_momentum=0.5).get_layer("stages_0_block_0_conv1_b1_bn").momentum == 0.5


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


def test_outside_training_batch_norm_keeps_its_statistics() -> None:
    _, fused = both_layers()
    before = fused.get_weights()
    fused(np.ones((4, 5, 7, 6), np.float32), training=False)
    for one, other in zip(fused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
