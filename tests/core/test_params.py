"""A wrong params.yaml is an error with the key, the value, what is expected, and the nearest known name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml

from mlimages.core.errors import UserError
from mlimages.core.param_errors import RENAMED
from mlimages.core.params import load

ROOT = Path(__file__).parents[2]


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_committed_file_is_valid_and_read_as_typed_sections() -> None:
    params = load(ROOT / "params.yaml")
    assert params.train.batch == 32
    assert params.acquire.demo.pixels == 64
    with pytest.raises(AttributeError):
        params.train.batch = 1  # type: ignore[misc]


@pytest.mark.parametrize("change, message", [
    ({"batch_norm": "synchronized", "local_sgd_steps": 2},
     "gradient_accumulation is 1 and local_sgd_steps 2, expected 1 for both"),
    ({"batch_norm": "synchronized", "gradient_accumulation": 2},
     "gradient_accumulation is 2 and local_sgd_steps 1, expected 1 for both"),
    ({"precision": "mixed_float16", "local_sgd_steps": 2},
     "local_sgd_steps is 2, expected 1 with precision: mixed_float16"),
    ({"all_reduce_dtype": "float16", "local_sgd_steps": 2, "optimizer": "adamw"},
     "all_reduce_dtype is 'float16', expected bfloat16 or")])
def test_combinations_that_need_the_whole_batch_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(load(ROOT / "params.yaml").train, **change)


def test_patience_is_refused_without_validation() -> None:
    train = load(ROOT / "params.yaml").train
    with pytest.raises(ValueError, match="patience is 3, expected validation_images above 0"):
        dataclasses.replace(train, patience=3, validation_images=0)
    assert dataclasses.replace(train, patience=3).patience == 3


def test_class_weights_are_refused_with_the_class_balanced_loss() -> None:
    train = load(ROOT / "params.yaml").train
    with pytest.raises(ValueError, match="class_weights is 'inverse_frequency', expected null with loss: class_bal"):
        dataclasses.replace(train, loss="class_balanced", class_weights="inverse_frequency")
    for loss in ("asymmetric", "sigmoid", "focal", "softmax"):
        assert dataclasses.replace(train, loss=loss, class_weights="inverse_frequency").loss == loss


def test_label_smoothing_is_refused_with_the_asymmetric_loss() -> None:
    train = load(ROOT / "params.yaml").train
    with pytest.raises(ValueError, match="label_smoothing is 0.1, expected 0 with loss: asymmetric"):
        dataclasses.replace(train, loss="asymmetric", label_smoothing=0.1)
    for loss in ("class_balanced", "sigmoid", "focal", "softmax"):
        assert dataclasses.replace(train, loss=loss, label_smoothing=0.1).label_smoothing == 0.1


@pytest.mark.parametrize("change", [
    {"all_reduce_dtype": "float16", "local_sgd_steps": 2, "optimizer": "momentum"},
    {"all_reduce_dtype": "float16", "local_sgd_steps": 1, "optimizer": "adamw"},
    {"all_reduce_dtype": "bfloat16", "local_sgd_steps": 2, "optimizer": "adamw"},
    {"precision": "mixed_float16", "local_sgd_steps": 1}, {"precision": "mixed_bfloat16", "local_sgd_steps": 2}])
def test_combinations_beside_a_refused_one_are_allowed(change: dict[str, Any]) -> None:
    train = load(ROOT / "params.yaml").train
    assert dataclasses.asdict(dataclasses.replace(train, **change)) == {**dataclasses.asdict(train), **change}


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("learning_rate:", "learning_rat:", ["`train.learning_rat` (0.001)", "nearest known is `train.learning_rate`"]),
    ("train_images:", "train_image:", ["`acquire.demo.train_image`", "nearest known is `acquire.demo.train_images`"]),
    ("machine:", "machines:", ["unknown key `machines`", "nearest known is `machine`"]),
    ("batch: 32", "batch: 0", ["`train.batch` is 0", "greater than or equal to 1"]),
    ("batch: 32", 'batch: "32"', ["`train.batch` is '32'", "integer"]),
    ("batch: 32", "batch: 32.5", ["`train.batch` is 32.5", "integer"]),
    ("batch: 32", "batch: true", ["`train.batch` is True", "integer"]),
    ("batch: 32", "batch: 32\n  out: ../elsewhere", ["unknown key `train.out`"]),
    ("momentum: 0.9", "momentum: -1", ["`train.momentum` is -1", "greater than or equal to 0"]),
    ("momentum: 0.9", "momentum: .nan", ["`train.momentum` is nan", "finite"]),
    ("rotate_and_color_jitter: false", "rotate_and_color_jitter: no",
     ["`train.rotate_and_color_jitter` is 'no'", "boolean"]),
    ("architecture: resnet101", "architecture: vgg", ["`train.architecture` is 'vgg'", "'resnet101'"]),
    ("crop_area: [0.9, 1.0]", "crop_area: [0.9]", ["`train.crop_area` is [0.9]", "at least 2 items"]),
    ("crop_area: [0.9, 1.0]", "crop_area: [1.0, 0.9]", ["`train`: crop_area is [1.0, 0.9]", "smaller share first"]),
    ("warmup: 0.1", "warmup: 7.0", ["`train`: warmup is 7.0", "at most epochs, 1.0"]),
    ("step_boundaries: []", "step_boundaries: [2.0]", ["`train`: step_boundaries is [2.0]", "schedule: step"]),
    ("val_shards: 1 ", "val_shards: null ", ["`convert`: train_shards is 4, val_shards None", "number for shard_mib"]),
    ("shard_mib: null ", "shard_mib: 128 ", ["`convert`: train_shards is 4, val_shards 1", "null otherwise"]),
    ("gradient_accumulation: 1 ", "gradient_accumulation: 3 ",
     ["`train`: batch is 32", "a multiple of gradient_accumulation, 3"]),
    ("local_sgd_steps: 1 ", "local_sgd_steps: 3 ",
     ["`train`: checkpoint_steps is 100", "a multiple of local_sgd_steps, 3"]),
    ("  threads: 16", "  threads: 32\n  threads: 3", ["duplicate key", "line"]),
    ("architecture: resnet101", "architecture: !!python/object/apply:os.getcwd []", ["not plain YAML", "line"]),
])
def test_a_wrong_value_is_reported(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load(changed(tmp_path, old, new))
    for text in expected:
        assert text in str(error.value)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_the_error_for_an_old_name_says_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    names = [name.partition(".")[2] for name in (old, new)]
    path = changed(tmp_path, f"\n  {names[1]}:", f"\n  {names[0]}:")
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value) == f"{path}: `{old}` is now called `{new}`; rename it there"


@pytest.mark.parametrize(("old", "new", "key", "value"), [
    ("weight_decay: 0.0001", "weight_decay: 1e-5", "weight_decay", 1e-5), ("batch: 32", "batch: 010", "batch", 10)])
def test_dvc_and_the_code_read_the_same_numbers(tmp_path: Path, old: str, new: str, key: str,
                                                value: float) -> None:
    path = changed(tmp_path, old, new)
    assert getattr(load(path).train, key) == value
    assert parse_yaml(path.read_text(), str(path))["train"][key] == value


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml is missing"):
        load(tmp_path / "nowhere.yaml")
