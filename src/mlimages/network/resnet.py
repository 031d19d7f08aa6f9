"""The released network: a pre-activation bottleneck ResNet, in keras alone.

Source: Tencent ML-Images' models/resnet.py; He et al., arXiv 1603.05027, for pre-activation.
"""

import re
from collections.abc import Sequence
from typing import Any

import keras

from mlimages.network.layers import Convolution, FusedBatchNormalization

BLOCK = re.compile(r"stages_(?P<stage>\d+)_block_(?P<block>\d+)_")  # of the name of a layer
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet(depth: int | Sequence[int], classes: int, *, batch_norm_momentum: float = 0.997,
           batch_norm_epsilon: float = 1e-5, width: int = 64, zero_init_residual: bool = False,
           synchronized: bool = False, dtype: str = "float32", stock: bool = False) -> keras.Model:
    """Build a network from images, float32 [batch, height, width, 3] in [-1, 1], to logits, float32 [batch, classes].

    depth: 50, 101 or 152, or the number of blocks of each stage.
    width: the channels of the first convolution. The stages have 4, 8, 16, ... times as many.
    zero_init_residual: the last convolution of every block starts at zero, so that the block starts as the identity
        (Goyal et al., arXiv 1706.02677, section 5.1). The first block of a stage is left out: it halves the sides, and
        its shortcut alone would skip three of four pixels. The released program does this for no block.
    synchronized: batch norm sees the images of all replicas.
    dtype: Keras' policy for all layers before the features, such as mixed_bfloat16.
    stock: use only Keras' own layers, so that the saved network loads without this project. The outputs are the same.

    The layer `features` returns float32 [batch, channels of the last stage]. Layers have the names of the released
    checkpoint, with `_` for `/`. Raises ValueError for an unknown depth.
    """
    if isinstance(depth, int) and depth not in DEPTHS:
        raise ValueError(f"depth is {depth}, expected one of {sorted(DEPTHS)} or the number of blocks of each stage")

    convolution = keras.layers.Conv2D if stock else Convolution
    batch_norm = keras.layers.BatchNormalization if stock else FusedBatchNormalization

    def convolve(x: Any, channels: int, kernel: int, strides: int, name: str, zeros: bool = False) -> Any:
        if strides > 1 and kernel > 1:
            before = (kernel - 1) // 2
            x = keras.layers.ZeroPadding2D(((before, kernel - 1 - before),) * 2, dtype=dtype)(x)
        return convolution(channels, kernel, strides, padding="valid" if strides > 1 else "same", use_bias=False,
                           kernel_initializer="zeros" if zeros else _initializer(), dtype=dtype, name=name)(x)

    def activate(x: Any, name: str) -> Any:
        x = batch_norm(momentum=batch_norm_momentum, epsilon=batch_norm_epsilon, synchronized=synchronized,
                       dtype=dtype, name=name)(x)
        return keras.layers.ReLU(dtype=dtype)(x)

    def block(x: Any, channels: int, first: bool, name: str) -> Any:
        strides, shortcut = 1, x
        if first:
            strides = 2
            shortcut = convolve(activate(x, f"{name}_conv1_b1_bn"), channels, 1, strides, f"{name}_conv1_b1")
        x = convolve(activate(x, f"{name}_conv1_b2_bn"), channels // 4, 1, 1, f"{name}_conv1_b2")
        x = convolve(activate(x, f"{name}_conv2_b2_bn"), channels // 4, 3, strides, f"{name}_conv2_b2")
        x = convolve(activate(x, f"{name}_conv3_b2_bn"), channels, 1, 1, f"{name}_conv3_b2",
                     zeros=zero_init_residual and not first)
        return keras.layers.Add(dtype=dtype)([shortcut, x])

    images = keras.Input((None, None, 3), name="images")
    x = convolve(images, width, 7, 2, "init_conv")
    for stage, blocks in enumerate(DEPTHS[depth] if isinstance(depth, int) else depth):
        for index in range(blocks):
            x = block(x, 4 * width * 2**stage, index == 0, f"stages_{stage}_block_{index}")
    x = activate(x, "global_pool_bn")
    features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    logits = keras.layers.Dense(classes, kernel_initializer=_initializer(), dtype="float32", name="logits")(features)
    return keras.Model(images, logits, name="resnet")


def build(architecture: str, classes: int, **options: Any) -> keras.Model:
    """The network of `train.architecture`: resnet50, resnet101, resnet152, or `tiny` for tests."""
    if architecture == "tiny":
        return resnet((1, 1), classes, width=8, **options)
    return resnet(int(architecture.removeprefix("resnet")), classes, **options)


def freeze_through(model: keras.Model, stage: str) -> None:
    """Freeze the weights and statistics of the first convolution and of all stages up to `stage`, such as stages_1.

    Raises ValueError for an unknown stage.
    """
    last = _stages(model).index(stage) if stage in _stages(model) else None
    if last is None:
        raise ValueError(f"the network has no {stage}; its stages are {', '.join(_stages(model))}")
    for layer in model.layers:
        match = BLOCK.match(layer.name)
        if layer.name == "init_conv" or (match and int(match["stage"]) <= last):
            layer.trainable = False


def depths(weights: Sequence[Any]) -> list[int]:
    """The depth of each weight below the logits, in blocks: 0 for the logits, 1 for the last block.

    The first convolution is one below the first block. The last batch norm counts as part of the last block.
    """
    layers = [weight.path.partition("/")[0] for weight in weights]
    positions = [tuple(map(int, match.groups())) if (match := BLOCK.match(layer)) else None for layer in layers]
    blocks = sorted({position for position in positions if position}, reverse=True)
    others = {"logits": 0, "init_conv": len(blocks) + 1}
    return [1 + blocks.index(position) if position else others.get(layer, 1)
            for layer, position in zip(layers, positions, strict=True)]


def stage_outputs(model: keras.Model) -> list[Any]:
    """The outputs of the stages, the last stage first: Keras' symbolic tensors [batch, rows, columns, channels].

    That of the last stage is activated, as `features` averages it. All paths to the logits lead through each of them.
    """
    names = ["features", *(f"{stage}_block_0_conv1_b2_bn" for stage in reversed(_stages(model)[1:]))]
    return [model.get_layer(name).input for name in names]


def _stages(model: keras.Model) -> list[str]:
    numbers = {int(match["stage"]) for layer in model.layers if (match := BLOCK.match(layer.name))}
    return [f"stages_{number}" for number in sorted(numbers)]


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
