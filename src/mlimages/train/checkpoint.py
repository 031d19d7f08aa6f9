"""The released program's checkpoints: TensorFlow 1's, by its variables' names. Numbers only: nothing in them runs."""

import re
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mlimages.errors import UserError
from mlimages.publish import sha256
from mlimages.train.files import checkpoint_files

SCOPES = {"init_conv": "init/init_conv/conv2d", "global_pool_bn": "global_pool/bn/batch_normalization",
          "logits": "logits/dense"}
# What a checkpoint holds of the network itself: neither its optimizer's slots nor its counters.
WEIGHT = re.compile(r"(init|global_pool|stages_\d+_block_\d+)/.*/(kernel|gamma|beta|moving_mean|moving_variance)")
NAMED = 5  # variables, where a list of them is printed


class Loaded(NamedTuple):
    """The names of what was `loaded`, of what else the checkpoint holds, and of what of the network was `kept`; the
    sha256 of the checkpoint's files.
    """

    loaded: list[str]
    ignored: list[str]
    kept: list[str]
    files: dict[str, str]

    def __str__(self) -> str:
        return (f"{len(self.loaded)} variables loaded; {_names(self.ignored)} of the checkpoint ignored, "
                f"{_names(self.kept)} of the network kept")


def released_name(path: str) -> str:
    """The released name of a network's variable, whose `path` is such as stages_0_block_0_conv1_b1_bn/gamma."""
    layer, variable = path.split("/")
    if layer not in SCOPES:
        block, name = re.fullmatch(r"(stages_\d+_block_\d+)_(\w+)", layer).groups()  # type: ignore[union-attr]
        return f"{block}/{name}/{'batch_normalization' if name.endswith('_bn') else 'conv2d'}/{variable}"
    return f"{SCOPES[layer]}/{variable}"


def load_released(model: keras.Model, prefix: str | Path, *, logits: bool = True) -> Loaded:
    """Fill a network of `mlimages.train.resnet` from the checkpoint PREFIX.index, PREFIX.data-*.

    Without `logits` the last layer stays as it is, for other classes. Raises UserError, and changes nothing, for a
    checkpoint that is missing, damaged or of another format, and for one of another depth or number of classes.
    """
    wanted = {released_name(variable.path): variable for variable in model.variables}
    kept = [] if logits else [name for name in wanted if name.startswith("logits/")]
    shapes = {name: tuple(variable.shape) for name, variable in wanted.items() if name not in kept}
    found = _read(prefix, shapes)
    _check(prefix, shapes, found)
    for name, value in found.items():
        if value is not None:
            wanted[name].assign(value)
    loaded = set(wanted) - set(kept)
    return Loaded(sorted(loaded), sorted(set(found) - loaded), sorted(kept),
                  {path.name: sha256(path) for path in checkpoint_files(prefix)})


def _read(prefix: str | Path, names: Container[str]) -> dict[str, Any]:
    """What the checkpoint holds under each name: an array for `names`, None for all others."""
    checkpoint_files(prefix)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        held = reader.get_variable_to_shape_map()
        return {name: reader.get_tensor(name) if name in names else None for name in held}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise UserError(f"{prefix} is no TensorFlow checkpoint, or is damaged ({str(error).splitlines()[0]}); "
                        f"fetch it again") from None


def _check(prefix: str | Path, shapes: dict[str, tuple[int, ...]], found: dict[str, np.ndarray | None]) -> None:
    """UserError unless the checkpoint has the network's variables, in their shapes, and no further layers."""
    bias = found.get("logits/dense/bias")
    if bias is not None and bias.shape != shapes["logits/dense/bias"]:
        raise UserError(f"{prefix} has {len(bias)} classes, the network has {shapes['logits/dense/bias'][0]}; load all "
                        f"but the logits: load_released(..., logits=False), train.initialize_logits: false")
    missing = sorted(set(shapes) - set(found))
    further = sorted(name for name in set(found) - set(shapes) if WEIGHT.fullmatch(name))
    if missing or further:
        raise UserError(f"{prefix} is of another network: it has {_depth(found)}, expected {_depth(shapes)}; it lacks "
                        f"{len(missing)} of the network's variables ({', '.join(missing[:3]) or 'none'}) and has "
                        f"{len(further)} others ({', '.join(further[:3]) or 'none'})")
    for name, shape in shapes.items():
        value = found[name]
        if value is not None and value.shape != shape:
            raise UserError(f"{prefix}: {name} has the shape {value.shape}, expected {shape}")


def _names(names: list[str]) -> str:
    """How many, and the first ones."""
    first = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names)} ({first})" if names else "0"


def _depth(names: Any) -> str:
    """The blocks of each stage that variables' names tell of."""
    blocks = {match.groups() for name in names if (match := re.match(r"stages_(\d+)_block_(\d+)/", name))}
    counts = Counter(int(stage) for stage, _ in blocks)
    return f"blocks {tuple(count for _, count in sorted(counts.items()))}"
