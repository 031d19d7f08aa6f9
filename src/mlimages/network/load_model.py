"""Loads saved networks, and finds out whether their outputs are logits or probabilities."""

import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mlimages.core.errors import UserError, rebuild_hint
from mlimages.core.publish import MANIFEST
from mlimages.network.model_files import Activation, Preprocessing, read_preprocessing

MODEL = "model.keras"
SAVED_MODEL_FILE = "saved_model.pb"
MOST_EXPANSION = 10  # unpacked bytes for each byte of a .keras file; Keras does not compress them
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"sigmoid": tf.sigmoid, "softmax": tf.nn.softmax, "none": tf.identity}
PROBABILITIES = (keras.activations.sigmoid, keras.activations.softmax)


class LoadedModel(NamedTuple):
    """A network. `call` takes images, float32 [batch, height, width, 3] from -1 to 1, and returns its outputs.

    `activation` turns the outputs into probabilities, None if it is unknown. `preprocessing` was published with the
    network, None without it. `keras_model` is None for a SavedModel. `classes` is the number of outputs, None if it is
    unknown.
    """

    call: Callable[[Any], Any]
    activation: Activation | None
    preprocessing: Preprocessing | None
    keras_model: keras.Model | None
    classes: int | None

    def require_activation(self, given: Activation | None = None) -> Activation:
        """`given`, else the activation of the network. Raises UserError if neither is known."""
        if (activation := given or self.activation) is None:
            raise UserError("it is not known whether the network's outputs are logits or probabilities; pass "
                            "activation='sigmoid' or 'softmax' for logits, 'none' for probabilities")
        return activation


def load_model(model: str | Path | keras.Model) -> LoadedModel:
    """Load a .keras file, the folder of a SavedModel, or a folder such as data/model. A keras.Model is used as it is.

    A SavedModel is a program: load only one that you trust. Code in a .keras file does not run. Raises UserError for a
    missing path, and for a file without a network.
    """
    if isinstance(model, keras.Model):
        return LoadedModel(lambda images: model(images, training=False), _output_activation(model), None, model,
                           model.output_shape[-1])
    path = Path(model)
    if (path / MODEL).exists():
        path = path / MODEL
    if not path.exists():
        raise UserError(f"{path} is missing; run `dvc repro train`, or pass a .keras file or the folder of a "
                        f"SavedModel")
    published = read_preprocessing(path.parent)
    activation = published.activation if published else _manifest_activation(path.parent)
    if path.is_dir():
        if not (path / SAVED_MODEL_FILE).exists():
            raise UserError(f"{path} holds neither {MODEL} nor {SAVED_MODEL_FILE}; pass a .keras file, the folder of a "
                            f"SavedModel, or a folder that `dvc repro train` made")
        return LoadedModel(_load_saved_model(path), activation, published, None, None)
    loaded = load_model(load_keras(path))
    return loaded._replace(activation=activation or loaded.activation, preprocessing=published)


def load_keras(path: Path) -> keras.Model:
    """The network of a .keras file. Code in the file does not run. Raises UserError for a file without a network.

    The file is unpacked first, so that Keras reads the weights one by one. From the file itself, it reads all of them
    at once.
    """
    try:
        with TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MOST_EXPANSION * path.stat().st_size:
                raise ValueError(f"it would unpack to {unpacked:,} bytes")
            archive.extractall(folder)
            return keras.models.load_model(folder, compile=False, safe_mode=True)
    except FileNotFoundError as error:
        if not path.exists():
            raise UserError(f"{path} is missing; run `dvc repro train`") from None
        raise _no_network(path, error) from None
    except (ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise _no_network(path, error) from None


def _no_network(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no network that can be loaded ({str(error).partition(chr(10))[0]}); expected a file "
                     f"that Keras 3 saved: restore a copy from a backup, or {rebuild_hint('train')}")


def _load_saved_model(path: Path) -> Callable[[Any], Any]:
    try:
        loaded = tf.saved_model.load(path)
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise UserError(f"{path} is no SavedModel that can be loaded ({str(error).partition(chr(10))[0]})") from None
    if hasattr(loaded, "serve"):  # as Keras exports it
        return lambda images: loaded.serve(images)  # a reference to `loaded`, which owns the variables
    if "serving_default" not in loaded.signatures:
        raise UserError(f"{path} has neither the endpoint `serve` nor the signature `serving_default`, only "
                        f"{list(loaded.signatures)}")
    signature = loaded.signatures["serving_default"]
    [given], [output] = signature.structured_input_signature[1], signature.structured_outputs
    return lambda images: loaded.signatures["serving_default"](**{given: images})[output]


def _output_activation(model: keras.Model) -> Activation | None:
    """`none` for a network that ends in a sigmoid or softmax, `sigmoid` for one that ends in logits, else None.

    Logits are taken for those of a multi-label network, as in ML-Images.
    """
    last = model.layers[-1]
    if isinstance(last, keras.Model):
        return _output_activation(last)
    if isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) in PROBABILITIES:
        return "none"
    linear = getattr(last, "activation", None) is keras.activations.linear
    return "sigmoid" if linear and isinstance(last, keras.layers.Dense | keras.layers.Activation) else None


def _manifest_activation(folder: Path) -> Activation | None:
    """The activation in the manifest of a folder that an older version published without preprocessing.json."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest.get("activation") if isinstance(manifest, dict) else None
