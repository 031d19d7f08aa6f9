"""Weights to start from: of the released program's checkpoints, of networks that we published, of our checkpoints.

The released ones are TensorFlow 1's. All are read by the released names of their variables. Numbers only: nothing in
them runs.
"""

import itertools
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.core.publish import sha256
from mlimages.network.checkpoint_files import METADATA, VARIABLES, initial_weight_files, validate_checkpoint

SCOPES = {"init_conv": "init/init_conv/conv2d", "global_pool_bn": "global_pool/bn/batch_normalization",
          "logits": "logits/dense"}
# What a checkpoint holds of the network itself: neither its optimizer's slots nor its counters.
WEIGHT = re.compile(r"(init|global_pool|stages_\d+_block_\d+)/.*/(kernel|gamma|beta|moving_mean|moving_variance)")
NAMED = 5  # variables, where a list of them is printed


class LoadedWeights(NamedTuple):
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
    """The released name of a network's variable, whose `path` is such as stages_0_block_0_conv1_b1_bn/gamma.

    A variable of another kind of network keeps its own.
    """
    layer, _, variable = path.partition("/")
    if layer in SCOPES:
        return f"{SCOPES[layer]}/{variable}"
    if not (match := re.fullmatch(r"(stages_\d+_block_\d+)_(\w+)", layer)):
        return path
    block, name = match.groups()
    return f"{block}/{name}/{'batch_normalization' if name.endswith('_bn') else 'conv2d'}/{variable}"


def load_weights(model: keras.Model, start: str | Path, *, logits: bool = True) -> LoadedWeights:
    """Fill a network of `mlimages.network.resnet` from a folder with model.keras, such as data/model, a .keras file,
    one of our checkpoints, scratch/train/KEY/checkpoints/step-N, or the released checkpoint PREFIX.index and
    PREFIX.data-*.

    Of our checkpoints the averages are taken where there are any, as they would be published. Without `logits` the last
    layer stays as it is, for other classes. Raises UserError, and changes nothing, for what is missing, damaged or of
    another format, and for a network of another depth or number of classes.
    """
    wanted = {released_name(variable.path): variable for variable in model.variables}
    kept = [] if logits else [name for name in wanted if name.startswith("logits/")]
    shapes = {name: tuple(variable.shape) for name, variable in wanted.items() if name not in kept}
    files = initial_weight_files(start)
    if files[0].name == METADATA:
        found = _of_ours(Path(start), list(wanted))
    else:
        found = _of_keras(files[0]) if files[0].suffix == ".keras" else _of_released(start, wanted)
    _check(start, shapes, found)
    for name in shapes:
        wanted[name].assign(found[name])
    return LoadedWeights(sorted(shapes), sorted(set(found) - set(shapes)), sorted(kept),
                  {path.name: sha256(path) for path in files})


def _of_keras(path: Path) -> dict[str, Any]:
    """The variables of a .keras file."""
    try:
        network = keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no network that can be loaded ({str(error).partition(chr(10))[0]}); bring a sound "
                        f"copy of it") from None
    return {released_name(variable.path): variable.numpy() for variable in network.variables}


def _of_ours(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint of a training says of the network whose variables have these names, in their order."""
    facts, fault = validate_checkpoint(folder)
    if facts is None:
        raise UserError(f"{folder} is damaged ({fault}); take another one of {folder.parent}")
    reader = tf.train.load_checkpoint(str(folder / VARIABLES))
    held = reader.get_variable_to_shape_map()

    def part(name: str) -> list[Any]:
        """The variables of a part of the training, in the order in which they were saved."""
        keys = (f"{name}/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in itertools.count())
        return [reader.get_tensor(key) for key in itertools.takewhile(held.__contains__, keys)]

    values = part("average")[1:] or part("network")  # the first of the averages is their number of steps
    if len(values) != len(names):
        raise UserError(f"{folder} is of another network: {facts['network']['architecture']} with {len(values)} "
                        f"variables, expected {len(names)}")
    return dict(zip(names, values, strict=True))


def _of_released(prefix: str | Path, names: Container[str]) -> dict[str, Any]:
    """What a released checkpoint holds under each name: an array for `names`, None for all others."""
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
    if bias is not None and bias.shape != shapes.get("logits/dense/bias", bias.shape):
        raise UserError(f"{prefix} has {len(bias)} classes, the network has {shapes['logits/dense/bias'][0]}; load all "
                        f"but the logits: load_weights(..., logits=False), train.initialize_logits: false")
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
