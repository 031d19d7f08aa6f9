"""The released program's checkpoints load into the network exactly; other files are refused."""

import json
import pickle
import re
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.network.load_weights import load_weights, released_name
from mlimages.network.resnet import resnet

FIXTURES = Path(__file__).parents[1] / "fixtures"
Table = dict[str, tuple[int, ...]]
Write = Callable[..., Path]


def released_variables(depth: int) -> Table:
    """Every variable of the released graph for 17 classes, with its shape, as a checkpoint of it stores them."""
    table = json.loads((FIXTURES / f"resnet{depth}_variables.json").read_text())
    return {name: tuple(shape) for name, shape in table.items()}


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


def write(prefix: Path, table: Table, leave_out: Iterable[str] = ()) -> Path:
    """A checkpoint that TensorFlow 1 writes, with the weights and the other variables of a training."""
    tensors = {name: tf.constant(reference_weight(name, shape)) for name, shape in table.items()}
    kernel = "init/init_conv/conv2d/kernel"
    tensors |= {"global_step": tf.constant(440_000, tf.int64), "Variable": tf.zeros(17), "Variable_1": tf.zeros(17),
                f"{kernel}/Momentum": tf.zeros(table[kernel])}
    for name in leave_out:
        del tensors[name]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=list(tensors), shape_and_slices=[""] * len(tensors),
                      tensors=list(tensors.values()))
    return prefix


@pytest.fixture(scope="module")
def small() -> keras.Model:
    """A network of two blocks with 17 classes; tests that load into it find it as it was."""
    return resnet((1, 1), 17, width=8)


@pytest.fixture
def small_table(small: keras.Model) -> Table:
    return {released_name(variable.path): tuple(variable.shape) for variable in small.variables}


def test_resnet50_computes_what_the_released_program_does(tmp_path: Path) -> None:
    model = resnet(50, 17)
    loaded = load_weights(model, write(tmp_path / "released", released_variables(50)))
    assert loaded.loaded == sorted(released_variables(50))
    assert loaded.ignored == ["Variable", "Variable_1", "global_step", "init/init_conv/conv2d/kernel/Momentum"]
    assert loaded.kept == []
    images = np.random.RandomState(7).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    features, logits = keras.Model(model.input, [model.get_layer("features").output, model.output])(images)
    stock = resnet(50, 17, stock=True)
    stock.set_weights(model.get_weights())
    with np.load(FIXTURES / "resnet50_64px.npz") as expected:
        for found, wanted in ((logits, "logits"), (features, "feat"), (stock(images), "logits")):
            difference = np.abs(keras.ops.convert_to_numpy(found) - expected[wanted]).max()
            assert difference < 1e-4 * np.abs(expected[wanted]).max()


def test_resnet101_has_the_released_variables_and_no_other() -> None:
    model = resnet(101, 17)
    assert {released_name(variable.path): tuple(variable.shape) for variable in model.variables} == \
        released_variables(101)


def test_other_numbers_of_classes_are_refused_and_change_nothing(small_table: Table, tmp_path: Path) -> None:
    prefix = write(tmp_path / "released", small_table)
    model = resnet((1, 1), 5, width=8)
    before = model.get_weights()
    with pytest.raises(UserError, match="has 17 classes, the network has 5.*initialize_logits: false"):
        load_weights(model, prefix)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_but_the_logits_are_loaded_where_asked(small_table: Table, tmp_path: Path) -> None:
    model = resnet((1, 1), 5, width=8)
    before = model.get_layer("logits").get_weights()
    loaded = load_weights(model, write(tmp_path / "released", small_table), logits=False)
    assert loaded.kept == ["logits/dense/bias", "logits/dense/kernel"]
    assert set(loaded.kept) < set(loaded.ignored)
    for one, other in zip(model.get_layer("logits").get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    name = "stages_1_block_0/conv2_b2/conv2d/kernel"
    np.testing.assert_array_equal(model.get_layer("stages_1_block_0_conv2_b2").get_weights()[0],
                                  reference_weight(name, small_table[name]))


def test_another_depth_is_refused_with_both_depths(small: keras.Model, small_table: Table, tmp_path: Path) -> None:
    prefix = write(tmp_path / "released", small_table)
    with pytest.raises(UserError, match=re.escape("it has blocks (1, 1), expected blocks (1, 2)")):
        load_weights(resnet((1, 2), 17, width=8), prefix)
    with pytest.raises(UserError, match=re.escape("it has blocks (1, 1), expected blocks (1,)")):
        load_weights(resnet((1,), 17, width=8), prefix)


def test_a_variable_that_is_missing_or_of_another_shape_is_named(small: keras.Model, small_table: Table,
                                                                tmp_path: Path) -> None:
    name = "global_pool/bn/batch_normalization/gamma"
    with pytest.raises(UserError, match=f"lacks 1 of the network's variables .{name}"):
        load_weights(small, write(tmp_path / "lacking", small_table, leave_out=[name]))
    with pytest.raises(UserError, match=r"init/init_conv/conv2d/kernel has the shape \(7, 7, 3, 8\)"):
        load_weights(resnet((1, 1), 17, width=16), write(tmp_path / "narrow", small_table))


def test_a_missing_checkpoint_is_named_with_the_files_beside_it(small: keras.Model, small_table: Table,
                                                            tmp_path: Path) -> None:
    there = write(tmp_path / "released", small_table)
    with pytest.raises(UserError, match=f"expected .*other.index .*found {there}"):
        load_weights(small, tmp_path / "other")


def test_a_flipped_bit_or_a_truncated_file_is_reported(small: keras.Model, small_table: Table, tmp_path: Path) -> None:
    prefix = write(tmp_path / "released", small_table)
    for suffix, damage in ((".data-00000-of-00001", lambda body: body[:5000] + bytes([body[5000] ^ 1]) + body[5001:]),
                           (".data-00000-of-00001", lambda body: body[:5000]),
                           (".index", lambda body: body[: len(body) // 2])):
        shutil.copytree(prefix.parent, copy := tmp_path.with_name("copy"), dirs_exist_ok=True)
        path = copy / f"released{suffix}"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(UserError, match="damaged"):
            load_weights(small, copy / "released")


class Hostile:
    """Creates a file if a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_or_an_npz_is_refused_and_nothing_in_it_runs(small: keras.Model, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    pickled = pickle.dumps(Hostile(mark))
    (tmp_path / "pickled.index").write_bytes(pickled)
    (tmp_path / "pickled.data-00000-of-00001").write_bytes(pickled)
    np.savez(tmp_path / "arrays.npz", kernel=np.array(Hostile(mark), dtype=object))
    for prefix in ("pickled", "arrays", "arrays.npz"):
        with pytest.raises(UserError, match="no TensorFlow checkpoint|holds no weights to start from"):
            load_weights(small, tmp_path / prefix)
    assert not mark.exists()
