"""Every parameter of the step has its effect. A step gives the same result for any number of replicas and parts."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.training.distribution import build_strategy, distribute, replica_batch, shared_input
from mlimages.training.losses import SigmoidLoss
from mlimages.training.optimizer import FIRST_SCALE
from mlimages.training.step import FeatureDropout, Trainer

CLASSES, STEPS = 5, 4
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (STEPS, 8, 32, 32, 3)).astype(np.float32)
LABELS = (RNG.random((STEPS, 8, CLASSES)) < 0.4).astype(np.float32)

# The weights after the same steps on two replicas.
ON_TWO = """
import dataclasses, json, sys
import numpy as np, tensorflow as tf
from mlimages.core.params import Machine, Train
from mlimages.training.step import Trainer
from mlimages.training.distribution import distribute, mirrored_strategy

params, machine, data, out = json.loads(sys.argv[1])
data = np.load(data)
strategy = mirrored_strategy(Machine(**machine))
results = {}
for name, changes in (("local", {}), ("synchronized", {"batch_norm": "synchronized"}),
                      ("bfloat16", {"batch_norm": "synchronized", "all_reduce_dtype": "bfloat16"}),
                      ("float16", {"batch_norm": "synchronized", "all_reduce_dtype": "float16"})):
    trainer = Trainer(dataclasses.replace(Train(**params), **changes), data["labels"].shape[-1], strategy)
    batches = distribute(strategy, lambda context: tf.data.Dataset.from_tensor_slices(
        (data["images"], data["labels"])).unbatch().batch(4))
    results[f"{name}_losses"] = [trainer.train(batches, [0.05])[0] for _ in range(len(data["labels"]))]
    for index, variable in enumerate(trainer.model.variables):
        copies = [value.numpy() for value in strategy.experimental_local_results(variable.value)]
        assert all((copy == copies[0]).all() for copy in copies), variable.path
        results[f"{name}_{index}"] = copies[0]
dropping = Trainer(dataclasses.replace(Train(**params), dropout=0.5), data["labels"].shape[-1], strategy)
masks = strategy.experimental_local_results(strategy.run(lambda: dropping.dropout.mask(4, 100)))
results["equal_masks"] = (masks[0].numpy() == masks[1].numpy()).mean()
# More than a sum of float16 holds: the step is left out, and the scale halved.
before = [variable.numpy() for variable in trainer.model.trainable_variables]
trainer.scale.scale.assign(2.0**60)
trainer.train(distribute(strategy, lambda context: tf.data.Dataset.from_tensor_slices(
    (data["images"], data["labels"])).unbatch().batch(4)), [0.05])
results["moved"] = [(variable.numpy() != value).any() for variable, value in
                    zip(trainer.model.trainable_variables, before, strict=True)]
results["scale"] = trainer.scale.scale.numpy()
np.savez(out, **results)
"""


class Ran:
    """A few steps of a tiny network."""

    def __init__(self, params: Train, machine: Machine, *, steps_per_call: int = 1, rate: float = 0.05) -> None:
        strategy = build_strategy(params, machine)
        self.trainer = Trainer(params, CLASSES, strategy, steps_per_call=steps_per_call)
        self.batches = batches = distribute(
            strategy, lambda context: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)))
        rates = np.full(steps_per_call, rate, np.float32)
        self.losses = np.concatenate([self.trainer.train(batches, rates[: STEPS - done])
                                      for done in range(0, STEPS, steps_per_call)])
        self.weights = self.trainer.model.get_weights()


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference of weights, relative to the largest weight."""
    return max(float(np.abs(first - second).max() / np.abs(first).max())
               for first, second in zip(one, other, strict=True) if first.any())


@pytest.fixture(scope="module")
def run(small_train: Train, small_machine: Callable[..., Machine], tmp_path_factory: pytest.TempPathFactory,
        ) -> Callable[..., Ran]:
    def steps(changes: dict[str, Any] | None = None, **options: Any) -> Ran:
        params = dataclasses.replace(small_train, negative_selection=1.0, **(changes or {}))
        return Ran(params, small_machine(tmp_path_factory.mktemp("scratch")), **options)

    return steps


@pytest.fixture(scope="module")
def plain(run: Callable[..., Ran]) -> Ran:
    return run()


def test_several_steps_in_one_call_are_the_same_steps_to_the_bit(run: Callable[..., Ran], plain: Ran) -> None:
    many = run(steps_per_call=3)  # and one more in a call of its own
    assert many.losses.tolist() == plain.losses.tolist()
    assert difference(many.weights, plain.weights) == 0
    assert many.trainer.call.experimental_get_tracing_count() == 1


def test_one_device_takes_the_same_steps_as_a_mirror_of_one_to_the_bit(run: Callable[..., Ran], plain: Ran) -> None:
    alone = run({"strategy": "one_device"})
    assert alone.losses.tolist() == plain.losses.tolist()
    assert difference(alone.weights, plain.weights) == 0


def test_a_batch_that_replicas_cannot_share_evenly_is_refused(small_train: Train) -> None:
    assert replica_batch(dataclasses.replace(small_train, batch=12), 3) == 4
    with pytest.raises(UserError, match="train.batch is 8, which 3 replicas cannot share evenly"):
        replica_batch(small_train, 3)
    with pytest.raises(UserError, match="which 4 replicas cannot share evenly in 4 parts each; expected a multiple of"):
        replica_batch(dataclasses.replace(small_train, gradient_accumulation=4), 4)


@pytest.mark.parametrize(("strategy", "gpus", "expected"), [
    ("mirrored", 8, "multi_worker with a process for each, machine.train_workers: 8"), ("mirrored", 1, ""),
    ("mirrored", 0, ""), ("multi_worker", 8, ""), ("one_device", 8, "")])
def test_a_process_for_each_of_several_gpus_is_recommended(small_train: Train, strategy: Any, gpus: int,
                                                           expected: str) -> None:
    found = shared_input(dataclasses.replace(small_train, strategy=strategy), gpus)
    assert found.endswith(expected) and bool(found) == bool(expected)


def test_nccl_without_a_gpu_is_refused(small_train: Train, small_machine: Callable[..., Machine],
                                       tmp_path: Path) -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="machine.all_reduce is nccl, but there is no GPU"):
        build_strategy(dataclasses.replace(small_train, strategy="multi_worker"),
                       dataclasses.replace(small_machine(tmp_path), all_reduce="nccl"))


def test_two_replicas_take_the_same_steps_where_batch_norm_is_synchronized(
        run: Callable[..., Ran], plain: Ran, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    params = dataclasses.replace(small_train, negative_selection=1.0)
    done = subprocess.run(small_python(ON_TWO, json.dumps([
        dataclasses.asdict(params), dataclasses.asdict(small_machine(tmp_path, 2)), str(tmp_path / "data.npz"),
        str(tmp_path / "results.npz")])), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = run({"batch_norm": "synchronized"})
    with np.load(tmp_path / "results.npz") as results:
        weights = {name: [results[f"{name}_{index}"] for index in range(len(plain.weights))]
                   for name in ("local", "synchronized", "bfloat16", "float16")}
        np.testing.assert_allclose(results["synchronized_losses"], alone.losses, rtol=1e-3)
        assert 0.4 < results["equal_masks"] < 0.6, "replicas drop other features"
        assert not results["moved"].any() and results["scale"] == 2.0**59
    assert difference(weights["synchronized"], alone.weights) < 2e-2
    for half in ("bfloat16", "float16"):
        assert 0 < difference(weights[half], weights["synchronized"]) < 0.1, "gradients in half precision"
    assert difference(weights["float16"], weights["bfloat16"]) > 0
    assert difference(weights["local"], plain.weights) > 2 * difference(weights["synchronized"], alone.weights)


def test_gradient_accumulation_equals_the_whole_batch_except_for_batch_norm(run: Callable[..., Ran]) -> None:
    calm = {"batch_norm_momentum": 0.0, "dropout": 0.5}
    whole, parts = run(calm), run({**calm, "gradient_accumulation": 2})
    assert parts.losses[0] == pytest.approx(whole.losses[0], rel=0.02)
    assert parts.losses[0] != whole.losses[0]
    # The counters see the whole batch at once.
    for one, other in zip(whole.trainer.loss.counters().values(), parts.trainer.loss.counters().values(), strict=True):
        np.testing.assert_array_equal(one, other)
    bias = -1  # of the logits, whose gradient batch norm hardly changes
    np.testing.assert_allclose(parts.weights[bias], whole.weights[bias], atol=0.05 * np.abs(whole.weights[bias]).max())


def test_float16_gradients_that_overflow_change_no_weights(run: Callable[..., Ran]) -> None:
    ran = run({"precision": "mixed_float16"}, rate=0.0)
    before, scale = [weight.numpy() for weight in ran.trainer.model.trainable_variables], ran.trainer.scale
    assert scale is not None
    batches = distribute(ran.trainer.strategy, lambda context: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)))
    for value, changes in ((2.0**60, False), (2.0**10, True)):
        scale.scale.assign(value)
        ran.trainer.train(batches, np.array([0.05], np.float32))
        assert any((weight.numpy() != old).any() for weight, old in
                   zip(ran.trainer.model.trainable_variables, before, strict=True)) == changes
        assert scale.scale.numpy() == (value if changes else value / 2)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_in_mixed_precision_the_steps_are_nearly_the_same(run: Callable[..., Ran], plain: Ran, precision: str) -> None:
    mixed = run({"precision": precision})
    np.testing.assert_allclose(mixed.losses, plain.losses, rtol=0.05)
    assert difference(mixed.weights, plain.weights) > 0
    assert (mixed.trainer.scale is not None) == (precision == "mixed_float16")
    if mixed.trainer.scale:
        assert mixed.trainer.scale.scale.numpy() <= FIRST_SCALE


def test_xla_compiles_the_same_step(run: Callable[..., Ran], plain: Ran) -> None:
    compiled = run({"xla": "on"})
    assert compiled.trainer.compiled and convolves_in_xla(compiled)
    assert not plain.trainer.compiled and not convolves_in_xla(plain), "auto is off on a CPU"
    np.testing.assert_allclose(compiled.losses, plain.losses, rtol=1e-3)


def convolves_in_xla(ran: Ran) -> bool:
    """Whether the network is in a function of the traced step that XLA must compile."""
    graph = ran.trainer.call.get_concrete_function(
        ran.batches, tf.zeros(1), tf.constant(1), tf.constant(0.0)).graph.as_graph_def()
    return any(function.attr["_XlaMustCompile"].b and any(node.op == "Conv2D" for node in function.node_def)
               for function in graph.library.function)


@pytest.mark.parametrize("xla, batch_norm, compiled", [
    ("auto", "local", True), ("auto", "synchronized", False), ("off", "local", False)])
def test_on_a_gpu_xla_compiles_what_it_can_unless_it_is_off(
        small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        xla: Any, batch_norm: Any, compiled: bool) -> None:
    """There may be no GPU here: one is only listed, and no step is taken."""
    strategy = build_strategy(small_train, small_machine(tmp_path))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0"])
    params = dataclasses.replace(small_train, xla=xla, batch_norm=batch_norm)
    assert Trainer(params, CLASSES, strategy).compiled == compiled


def test_the_averaged_weights_are_published(run: Callable[..., Ran], plain: Ran) -> None:
    averaged = run({"ema_decay": 0.999})
    assert difference(averaged.weights, plain.weights) == 0
    assert difference(averaged.trainer.weights(), averaged.weights) > 0
    loss, logits = averaged.trainer.evaluate(tf.constant(IMAGES[0]), tf.constant(LABELS[0]))
    model = keras.models.clone_model(averaged.trainer.model)
    model.set_weights(averaged.trainer.weights())
    np.testing.assert_allclose(logits, model(IMAGES[0], training=False), rtol=1e-4, atol=1e-5)
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("change", [{"clip_norm": 0.01}, {"weight_decay": 0.1}, {"momentum": 0.0}, {"seed": 9},
                                    {"loss": "focal"}, {"batch_norm_momentum": 0.5}, {"label_smoothing": 0.1},
                                    {"dropout": 0.5}])
def test_a_change_of_a_parameter_changes_the_weights(run: Callable[..., Ran], plain: Ran,
                                                     change: dict[str, Any]) -> None:
    assert difference(run(change).weights, plain.weights) > 1e-3


def test_the_validation_loss_takes_the_labels_without_smoothing(run: Callable[..., Ran]) -> None:
    trainer = run({"loss": "sigmoid", "label_smoothing": 0.5}).trainer
    loss, logits = trainer.evaluate(tf.constant(IMAGES[0]), tf.constant(LABELS[0]))
    assert float(loss) == pytest.approx(float(SigmoidLoss()(LABELS[0], logits)), rel=1e-5)


def test_dropout_repeats_to_the_bit_and_is_only_in_training(run: Callable[..., Ran]) -> None:
    one, other, another = run({"dropout": 0.5}), run({"dropout": 0.5}, steps_per_call=3), run({"dropout": 0.4})
    assert difference(one.weights, other.weights) == 0 and one.losses.tolist() == other.losses.tolist()
    assert one.losses[0] != another.losses[0]
    _, logits = one.trainer.evaluate(tf.constant(IMAGES[0]), tf.constant(LABELS[0]))
    np.testing.assert_allclose(logits, one.trainer.model(IMAGES[0], training=False), rtol=1e-4, atol=1e-5)


def test_dropout_sets_its_share_of_the_features_to_0_and_keeps_their_mean() -> None:
    dropout = FeatureDropout(0.25, seed=3)
    first, second = (dropout.mask(500, 40).numpy() for _ in range(2))
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.24 < (first == 0).mean() < 0.26 and 0.3 < (first != second).mean() < 0.45
    resumed, other = FeatureDropout(0.25, seed=3), FeatureDropout(0.25, seed=4)
    resumed.step.assign(1)
    np.testing.assert_array_equal(resumed.mask(500, 40), second)
    assert (other.mask(500, 40).numpy() != first).any()


def test_clipping_makes_the_steps_small(run: Callable[..., Ran]) -> None:
    start, clipped = run(rate=0.0), run({"clip_norm": 1e-4, "weight_decay": 0.0, "momentum": 0.0})
    names = [variable.name for variable in start.trainer.model.variables]
    moved = [np.square(one - other).sum() for one, other, name in
             zip(start.weights, clipped.weights, names, strict=True) if not name.startswith("moving")]
    assert 0 < np.sqrt(sum(moved)) <= STEPS * 0.05 * 1e-4 * 1.01
