"""Loads weights to start from: released checkpoints, published networks and checkpoints of this project.

The released checkpoints are TensorFlow 1's. All variables are matched by their released names. Code in these files does
not run.
"""

import contextlib
import io
import itertools
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.core.publish import sha256
from mlimages.network.checkpoint_files import METADATA, VARIABLES, initial_weight_files, validate_checkpoint

SCOPES = {"init_conv": "init/init_conv/conv2d", "global_pool_bn": "global_pool/bn/batch_normalization",
          "logits": "logits/dense"}
# The variables of the network in a released checkpoint, without the optimizer's slots and counters.
WEIGHT = re.compile(r"(init|global_pool|stages_\d+_block_\d+)/.*/(kernel|gamma|beta|moving_mean|moving_variance)")
KERAS_WEIGHTS = "model.weights.h5"  # in a .keras file
# The variables of a layer in the order in which Keras saves them, by their number.
KERAS_VARIABLES = {1: ("kernel",), 2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance")}
NAMED = 5  # variables that a message lists


class LoadedWeights(NamedTuple):
    """The names of the variables that were loaded, those of the file that were ignored, and those of the network that
    kept their values. `files` has the sha256 of each file by its name.
    """

    loaded: list[str]
    ignored: list[str]
    kept: list[str]
    files: dict[str, str]

    def __str__(self) -> str:
        return (f"{len(self.loaded)} variables loaded; {_names(self.ignored)} of the checkpoint ignored, "
                f"{_names(self.kept)} of the network kept")


def released_name(path: str) -> str:
    """The released name of a network's variable. `path` is such as stages_0_block_0_conv1_b1_bn/gamma.

    A variable of another kind of network keeps its name.
    """
    layer, _, variable = path.partition("/")
    if layer in SCOPES:
        return f"{SCOPES[layer]}/{variable}"
    if not (match := re.fullmatch(r"(stages_\d+_block_\d+)_(\w+)", layer)):
        return path
    block, name = match.groups()
    return f"{block}/{name}/{'batch_normalization' if name.endswith('_bn') else 'conv2d'}/{variable}"


def load_weights(model: keras.Model, start: str | Path, *, logits: bool = True) -> LoadedWeights:
    """Load weights into a network of `mlimages.network.resnet`.

    `start` is a folder with model.keras, such as data/model; a .keras file; a checkpoint of this project, such as
    scratch/train/KEY/checkpoints/step-N, from which the averaged weights are loaded if it has them; or the prefix of a
    released checkpoint PREFIX.index and PREFIX.data-*. Without `logits` the last layer keeps its weights, for other
    classes.

    Raises UserError for missing or damaged files, and for a network of another depth or number of classes. The network
    is unchanged then.
    """
    wanted = {released_name(variable.path): variable for variable in model.variables}
    kept = [] if logits else [name for name in wanted if name.startswith("logits/")]
    shapes = {name: tuple(variable.shape) for name, variable in wanted.items() if name not in kept}
    files = initial_weight_files(start)
    if files[0].name == METADATA:
        found = _from_training(Path(start), list(wanted))
    else:
        found = _from_keras(files[0]) if files[0].suffix == ".keras" else _from_released(start, wanted)
    _check(start, shapes, found)
    for name in shapes:
        wanted[name].assign(found[name])
    return LoadedWeights(sorted(shapes), sorted(set(found) - set(shapes)), sorted(kept),
                  {path.name: sha256(path) for path in files})


def _from_keras(path: Path) -> dict[str, Any]:
    """The variables of a .keras file. To build its network would take longer than to read them."""
    try:
        with (TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive,
              contextlib.redirect_stdout(io.StringIO())):  # the editor prints the names of the file
            file = keras.saving.KerasFileEditor(archive.extract(KERAS_WEIGHTS, folder))
        names = {key.removeprefix("/layers/"): values["name"] for key, values in file.object_metadata.items()}
        return {released_name(f"{names[key]}/{name}"): variables[str(number)]
                for key, variables in file.weights_dict["layers"].items()
                for number, name in enumerate(KERAS_VARIABLES.get(len(variables), ()))}
    except (ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no network that can be loaded ({str(error).partition(chr(10))[0]}); restore a "
                        f"copy from a backup") from None


def _from_training(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The values of the network's variables in a checkpoint of a training. `names` are in the network's order."""
    facts, fault = validate_checkpoint(folder)
    if facts is None:
        raise UserError(f"{folder} is damaged ({fault}); take another one of {folder.parent}")
    reader = tf.train.load_checkpoint(str(folder / VARIABLES))
    held = reader.get_variable_to_shape_map()

    def part(name: str) -> list[Any]:
        """The variables of a part of the training, in the order in which they were saved."""
        keys = (f"{name}/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in itertools.count())
        return [reader.get_tensor(key) for key in itertools.takewhile(held.__contains__, keys)]

    values = part("average")[1:] or part("network")  # the first variable of `average` is the number of steps
    if len(values) != len(names):
        raise UserError(f"{folder} is of another network: {facts['network']['architecture']} with {len(values)} "
                        f"variables, expected {len(names)}")
    return dict(zip(names, values, strict=True))


def _from_released(prefix: str | Path, names: Container[str]) -> dict[str, Any]:
    """The variables of a released checkpoint by name: an array for `names`, None for others."""
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        held = reader.get_variable_to_shape_map()
        return {name: reader.get_tensor(name) if name in names else None for name in held}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise UserError(f"{prefix} is no TensorFlow checkpoint, or is damaged ({str(error).splitlines()[0]}); "
                        f"fetch it again") from None


def _check(prefix: str | Path, shapes: dict[str, tuple[int, ...]], found: dict[str, np.ndarray | None]) -> None:
    """Raise UserError unless the checkpoint has all variables of the network, in their shapes, and no other layers."""
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
    """The number of names, and the first ones."""
    first = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names)} ({first})" if names else "0"


def _depth(names: Any) -> str:
    """The number of blocks of each stage, from the names of variables."""
    blocks = {match.groups() for name in names if (match := re.match(r"stages_(\d+)_block_(\d+)/", name))}
    counts = Counter(int(stage) for stage, _ in blocks)
    return f"blocks {tuple(count for _, count in sorted(counts.items()))}"
