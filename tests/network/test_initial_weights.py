"""A training starts from what is published, from a .keras file, and from a checkpoint of another training."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.faults import environment
from tests.training.outcomes import Trained

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.publish import sha256
from mlimages.network.initial_weights import find_initial_weights
from mlimages.network.load_weights import load_weights
from mlimages.network.resnet import build, resnet
from mlimages.train.run import train
from mlimages.training.checkpoints import CheckpointManager

pytestmark = pytest.mark.usefixtures("no_saved_model")

Write = Callable[[keras.Model, Path], Path]


def network(classes: int = 5, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = build("tiny", classes)
    model.set_weights([value + 0.01 * np.random.default_rng(seed).random(value.shape) for value in model.get_weights()])
    return model


def published(model: keras.Model, folder: Path) -> Path:
    """The folder of a network, as train publishes it."""
    folder.mkdir()
    plain = build("tiny", model.output_shape[-1], stock=True)
    plain.set_weights(model.get_weights())
    plain.save(folder / "model.keras")
    return folder


def keras_file(model: keras.Model, folder: Path) -> Path:
    return published(model, folder) / "model.keras"


def checkpoint(model: keras.Model, folder: Path, *more: Any) -> Path:
    """A checkpoint of a training, with variables that are not the network's."""
    parts = {"network": [variable.value for variable in model.variables], "optimizer": [keras.Variable(7.0).value]}
    saves = CheckpointManager(folder, {**parts, **dict(more)}, {"architecture": "tiny", "classes": 5}, {}, 1,
                        time.monotonic())
    saves.save(3, [])
    [found] = folder.iterdir()
    return found


def averaged(model: keras.Model, folder: Path) -> Path:
    """A checkpoint of a training whose averages are the network's weights, and whose network has others."""
    averages = [keras.Variable(9).value, *(variable.value for variable in model.variables)]
    return checkpoint(network(model.output_shape[-1], seed=1), folder, ("average", averages))


KINDS = [published, keras_file, checkpoint, averaged]


@pytest.mark.parametrize("write", KINDS)
def test_every_weight_is_taken(tmp_path: Path, write: Write) -> None:
    given, filled = network(), network(seed=2)
    loaded = load_weights(filled, write(given, tmp_path / "start"))
    for value, expected in zip(filled.get_weights(), given.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert len(loaded.loaded) == len(given.variables) and not loaded.kept and loaded.files


@pytest.mark.parametrize("write", KINDS)
def test_other_classes_are_refused_with_both_numbers_and_taken_without_the_last_layer(tmp_path: Path,
                                                                                      write: Write) -> None:
    given, filled = network(), network(7, seed=2)
    before, start = filled.get_weights(), write(given, tmp_path / "start")
    with pytest.raises(UserError, match="has 5 classes, the network has 7; .*train.initialize_logits: false"):
        load_weights(filled, start)
    for value, old in zip(filled.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    loaded = load_weights(filled, start, logits=False)
    expected = {variable.path: variable.numpy() for variable in given.variables}
    kept = dict(zip((variable.path for variable in filled.variables), before, strict=True))
    for variable in filled.variables:
        source = kept if variable.path.startswith("logits/") else expected
        np.testing.assert_array_equal(variable.numpy(), source[variable.path])
    assert loaded.kept == ["logits/dense/bias", "logits/dense/kernel"]


@pytest.mark.parametrize("write", KINDS)
def test_another_depth_is_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(UserError, match="is of another network"):
        load_weights(resnet((1, 2), 5, width=8), write(network(), tmp_path / "start"))


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5, name="logits")])
    other.save(tmp_path / "other.keras")
    with pytest.raises(UserError, match=r"other\.keras .*network"):
        load_weights(network(), tmp_path / "other.keras")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"no network"])
def test_a_file_that_is_no_network_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.keras is no network that can be loaded"):
        load_weights(network(), tmp_path)


def test_code_in_a_network_is_refused_and_does_not_run(tmp_path: Path) -> None:
    other = keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: x)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(UserError, match=r"other\.keras is of another network"):
        load_weights(network(), tmp_path / "other.keras")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    start = checkpoint(network(), tmp_path / "start")
    path = next(start.glob("variables.data-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"step-00000003 is damaged \(variables\.data-.* has another sha256"):
        load_weights(network(), start)


def test_a_training_starts_from_what_was_published_and_its_record_says_so(
        trained: Trained, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        tmp_path: Path) -> None:
    params = dataclasses.replace(small_train, initialize_from=str(trained.out), steps=1, epochs=None, warmup=0.0,
                                 learning_rate=1e-9, validation_images=0)
    out = train(params, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")
    networks = [keras.models.load_model(folder / "model.keras", compile=False) for folder in (out, trained.out)]
    for ours, theirs in zip(networks[0].trainable_variables, networks[1].trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    initialized = json.loads((out / "run.json").read_text())["initialized"]
    assert initialized["files"] == {"model.keras": sha256(trained.out / "model.keras")} and not initialized["kept"]


# As the stage of this project: DVC removes what it made before it runs it again.
STAGE = """
import dataclasses, json, sys
from pathlib import Path
import yaml
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.network.initial_weights import find_initial_weights
train, machine = json.loads(Path("settings.json").read_text())
start = yaml.safe_load(Path("params.yaml").read_text())["train"]["initialize_from"]
try:
    found = find_initial_weights(Train(**{**train, "initialize_from": start}), Machine(**machine))
except UserError as error:
    sys.exit(f"UserError: {error}")
assert not Path("data/model").exists()
content = found.read_bytes() if found and found.exists() else b"none"
Path("data/model").mkdir(parents=True)
Path("data/model/model.keras").write_bytes(content + b", then trained")
"""


DVC = [sys.executable, "-m", "dvc"]


def git(root: Path, *command: str) -> None:
    subprocess.run(["git", *command], cwd=root, check=True)


@pytest.fixture
def repository(tmp_path: Path, small_train: Train, machine: Machine) -> Callable[..., str]:
    """Runs commands in a repository of git and DVC with a stage `train`; gives what that published."""
    root = tmp_path / "repository"
    root.mkdir()
    settings = [dataclasses.asdict(small_train), dataclasses.asdict(dataclasses.replace(machine, scratch="scratch"))]
    (root / "settings.json").write_text(json.dumps(settings))
    (root / "params.yaml").write_text("train:\n  initialize_from: null\n")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(f"stages:\n  train:\n    cmd: {sys.executable} stage.py\n    params: [train]\n"
                                   f"    outs: [data/model]\n")
    (root / ".gitignore").write_text("/scratch\n")

    def dvc(*command: str) -> str:
        ended = subprocess.run([*DVC, *command], cwd=root, env=environment(), capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return model.read_text() if model.exists() else ""

    model = root / "data" / "model" / "model.keras"
    git(root, "init", "-q")
    git(root, "config", "user.name", "tester")
    git(root, "config", "user.email", "tester@example.org")
    dvc("init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return dvc


FROM_ITSELF = ("exp", "run", "-q", "-S", "train.initialize_from=data/model")


def test_a_training_continues_from_what_dvc_removed_before_it(repository: Callable[..., str], tmp_path: Path) -> None:
    assert repository("repro", "-q") == "none, then trained"
    assert repository(*FROM_ITSELF) == "none, then trained, then trained"
    assert repository("repro", "-q", "--force") == "none, then trained, then trained, then trained"
    shutil.rmtree(tmp_path / "repository" / ".dvc" / "cache")
    ended = subprocess.run([*DVC, "repro", "--force"], cwd=tmp_path / "repository", env=environment(),
                           capture_output=True, text=True)
    assert ended.returncode != 0
    assert "UserError: data/model/model.keras was removed by DVC before this stage" in ended.stderr


def test_an_experiment_in_a_temporary_copy_does_so_too(repository: Callable[..., str], tmp_path: Path) -> None:
    repository("repro", "-q")
    git(tmp_path / "repository", "add", "-A")
    git(tmp_path / "repository", "commit", "-qm", "second")
    assert repository(*FROM_ITSELF, "--temp", "--name", "more") == "none, then trained"
    assert repository("exp", "apply", "-q", "more") == "none, then trained, then trained"


def test_a_path_that_dvc_does_not_know_is_returned_unchanged(small_train: Train, machine: Machine, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_initial_weights(dataclasses.replace(small_train, initialize_from="nowhere"), machine) == Path("nowhere")
    assert find_initial_weights(small_train, machine) is None
