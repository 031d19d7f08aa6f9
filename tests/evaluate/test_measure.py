"""`measure` takes a network in every form, and any data set."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.evaluate.measure import measure, probabilities
from mlimages.network.load_model import load_keras, load_model

IMAGES = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
LABELS = np.eye(4, dtype=np.float32)[np.arange(20) % 4]


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, kernel_initializer="normal")])


def dataset(*beside: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, *beside)).batch(8)


def test_measure_needs_only_a_model_and_a_data_set(network: keras.Model) -> None:
    metrics = measure(network, dataset())
    assert metrics.images == 20
    assert 0 < metrics.summary()["mean_average_precision_macro"] <= 1


def test_a_model_its_keras_file_and_its_saved_model_have_the_same_metrics(network: keras.Model, tmp_path: Path) -> None:
    network.save(tmp_path / "network.keras")
    network.export(tmp_path / "saved", verbose=False)
    expected = measure(network, dataset()).average_precision
    for path in (tmp_path / "network.keras", str(tmp_path / "saved")):
        np.testing.assert_allclose(measure(path, dataset(), activation="sigmoid").average_precision, expected,
                                   rtol=1e-6)
    np.testing.assert_allclose(measure(tmp_path / "network.keras", dataset()).average_precision, expected, rtol=1e-6)


def softmax_layer() -> keras.layers.Layer:
    return keras.layers.Softmax()


def sigmoid_layer() -> keras.layers.Layer:
    return keras.layers.Activation("sigmoid")


@pytest.mark.parametrize("last", [softmax_layer, sigmoid_layer])
def test_probabilities_are_not_taken_for_logits(last: Any, network: keras.Model, tmp_path: Path) -> None:
    """A second sigmoid would leave no probability below 0.5."""
    finished = keras.Sequential([network, last()])
    finished.save(tmp_path / "finished.keras")
    expected = measure(finished, dataset(), activation="none").summary()
    for model in (finished, tmp_path / "finished.keras"):
        assert measure(model, dataset()).summary() == expected


def test_outputs_of_an_unknown_kind_are_refused(network: keras.Model, tmp_path: Path) -> None:
    network.export(tmp_path / "saved", verbose=False)
    with pytest.raises(UserError, match=r"logits or probabilities; pass activation="):
        measure(tmp_path / "saved", dataset())
    odd = keras.Sequential([network, keras.layers.ReLU()])
    with pytest.raises(UserError, match=r"logits or probabilities; pass activation="):
        measure(odd, dataset())


def test_a_saved_model_of_plain_tensorflow_is_called_by_its_signature(tmp_path: Path) -> None:
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((None, 4))])
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.double.get_concrete_function()})
    found = load_model(tmp_path).call(tf.ones((1, 4)))
    assert found.numpy().tolist() == [[2, 2, 2, 2]]


def test_further_elements_of_a_batch_are_ignored(network: keras.Model) -> None:
    keys = np.array([f"image {number}" for number in range(20)])
    assert measure(network, dataset(keys)).summary() == measure(network, dataset()).summary()


def test_the_activation_turns_outputs_into_probabilities(network: keras.Model) -> None:
    logits = network(IMAGES).numpy()
    for activation, expected in (("sigmoid", 1 / (1 + np.exp(-logits))),
                                 ("softmax", np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)),
                                 ("none", logits)):
        [(found, labels)] = probabilities(network, activation, [(IMAGES, LABELS)])  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert found.dtype == np.float32
        assert labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("last", ["sigmoid", "softmax"])
def test_a_network_that_ends_in_an_activation_needs_no_other(last: str) -> None:
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation=last)])
    assert load_model(network).activation == "none"
    measure(network, dataset())


def test_the_manifest_beside_a_trained_network_has_its_activation(small_stages: Any, tmp_path: Path) -> None:
    model = shutil.copytree(small_stages.model, tmp_path / "model")
    (model / "preprocessing.json").unlink()  # as of a network that was published before there was one
    manifest = json.loads((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(json.dumps({**manifest, "activation": "softmax"}))
    for path in (model, model / "model.keras", model / "saved_model"):
        assert load_model(path).activation == "softmax"


def cut(body: bytes) -> bytes:
    return body[: len(body) // 2]


def garbage(body: bytes) -> bytes:
    return b"<!DOCTYPE html>" + bytes(len(body))


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[: middle - 500] + bytes(255 - byte for byte in body[middle - 500 : middle + 500]) + body[middle + 500 :]


def flipped_config(body: bytes) -> bytes:
    start = body.index(b"config.json") + 60
    return body[:start] + bytes(255 - byte for byte in body[start : start + 200]) + body[start + 200 :]


def encrypted(body: bytes) -> bytes:
    """With the encryption flag of every member set in the archive's directory."""
    parts = body.split(b"PK\x01\x02")
    return parts[0] + b"".join(b"PK\x01\x02" + part[:4] + b"\x01" + part[5:] for part in parts[1:])


def bomb(body: bytes) -> bytes:
    """With a member that unpacks to many times the size of the file."""
    file = io.BytesIO(body)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(12 * len(body)))
    return file.getvalue()


@pytest.mark.parametrize("damage", [cut, garbage, flipped, flipped_config, encrypted, bomb])
def test_a_damaged_network_is_refused_with_its_path_and_the_command_that_mends_it(
        damage: Any, small_stages: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(damage((small_stages.model / "model.keras").read_bytes()))
    advice = r"dvc repro --single-item --force train"
    with pytest.raises(UserError, match=rf"model\.keras is no network that can be loaded.*{advice}"):
        load_keras(path)


def lambda_layer(path: Path, mark: Path) -> None:
    """A layer whose code would run while the network is loaded."""
    name = str(mark)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: open(name, "w") and x)])
    network.save(path)
    mark.unlink()


def process(path: Path, mark: Path) -> None:
    """A class that Keras would create by its name, and that starts a program."""
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"][1] = {"module": "subprocess", "class_name": "Popen", "registered_name": None,
                                     "config": {"args": ["touch", str(mark)]}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in {**members, "config.json": json.dumps(config).encode()}.items():
            archive.writestr(name, body)


@pytest.mark.parametrize("write, name", [
    (lambda_layer, "hostile.keras"), (lambda_layer, "hostile.h5"), (process, "hostile.keras")])
def test_a_hostile_network_is_refused_and_nothing_in_it_runs(tmp_path: Path, write: Any, name: str) -> None:
    write(tmp_path / name, tmp_path / "ran")
    with pytest.raises(UserError, match=f"{name} is no network that can be loaded"):
        measure(tmp_path / name, dataset())
    assert not (tmp_path / "ran").exists()


def test_a_damaged_saved_model_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is no SavedModel that can be loaded"):
        measure(tmp_path, dataset())


def test_a_path_without_a_network_is_refused_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is missing; run `dvc repro train`"):
        measure(tmp_path / "nowhere", dataset())


def test_a_data_set_without_labels_is_refused(network: keras.Model) -> None:
    with pytest.raises(UserError, match=r"expected batches \(images, confidences\)"):
        measure(network, tf.data.Dataset.from_tensor_slices(IMAGES).batch(8))


def test_an_empty_data_set_is_refused(network: keras.Model) -> None:
    with pytest.raises(UserError, match="the data set is empty"):
        measure(network, dataset().take(0))


def test_labels_that_are_class_numbers_are_refused_with_the_expected_shape(network: keras.Model) -> None:
    numbers = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS.argmax(axis=1))).batch(8)
    with pytest.raises(UserError, match=r"labels \(8,\), expected \[images, 4\] of both: a confidence for each class"):
        measure(network, numbers)
