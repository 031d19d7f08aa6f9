"""The programs in TensorFlow that `train.py` measures: `train_rivals.py WHAT PIXELS BATCH CLASSES`.

network: the training step of our ResNet-101. applications: that of keras.applications, by `fit`.
sgemm: products of large matrices with as many operations as forward and backward of our ResNet-101.
bare: forward, backward and update of our ResNet-101 alone. full: our training with its input, loss and log.
memory: the memory of the loss. start: the time to the end of the first step.
"""

import dataclasses
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import mlimages  # noqa: E402, F401 - sets what TensorFlow reads when it is imported

# isort: split
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from mlimages.acquire.formats import Labels  # noqa: E402
from mlimages.convert.encode_image import to_jpeg  # noqa: E402
from mlimages.convert.records import serialize, shard_name  # noqa: E402
from mlimages.convert.shard_writer import open_shard  # noqa: E402
from mlimages.core.params import load  # noqa: E402
from mlimages.core.publish import publish, read_manifest  # noqa: E402
from mlimages.core.tuning import FOR_STEPS, keep_freed_memory  # noqa: E402
from mlimages.demo import world  # noqa: E402
from mlimages.inputs.pipeline import Records, training_batches  # noqa: E402
from mlimages.network.resnet import build  # noqa: E402
from mlimages.training.distribution import distribute, mirrored_strategy  # noqa: E402
from mlimages.training.losses import ClassBalancedLoss  # noqa: E402
from mlimages.training.metrics_log import TrainingLog  # noqa: E402
from mlimages.training.step import Trainer  # noqa: E402

PARAMS = load(Path(__file__).parents[1] / "params.yaml")
RECORDS, SHARDS = 256, 4
FIT_STEPS = 3
SGEMM_SIDE, SGEMM_PRODUCTS = 2048, 4


def bare(pixels: int, batch: int, classes: int) -> Callable[[], Any]:
    """Forward, backward and update: the minimum of any training loop."""
    model = build("resnet101", classes)
    velocities = [tf.Variable(tf.zeros(weight.shape)) for weight in model.trainable_variables]
    images, labels = _batch(pixels, batch, classes)

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), 1))
        variables = [weight.value for weight in model.trainable_variables]
        for gradient, velocity, weight in zip(tape.gradient(loss, variables), velocities, variables, strict=True):
            velocity.assign(0.9 * velocity + gradient)
            weight.assign_sub(0.01 * velocity)
        return loss

    return lambda: float(step())


def network(pixels: int, batch: int, classes: int) -> Callable[[], Any]:
    """The step of our training, on one batch in memory."""
    params = dataclasses.replace(PARAMS.train, batch=batch, pixels=pixels, loss="sigmoid", optimizer="momentum")
    strategy = mirrored_strategy(PARAMS.machine)
    trainer = Trainer(params, classes, strategy)
    data = tf.data.Dataset.from_tensors(_batch(pixels, batch, classes)).repeat()
    batches = distribute(strategy, lambda context: data)
    return lambda: trainer.train(batches, np.array([0.01], np.float32))


def applications(pixels: int, batch: int, classes: int) -> Callable[[], Any]:
    """ResNet101V2 of keras.applications, from images to logits, by `fit`, with FIT_STEPS steps in a call."""
    model = keras.applications.ResNet101V2(weights=None, classes=classes, input_shape=(pixels, pixels, 3),
                                           classifier_activation=None)
    model.compile(keras.optimizers.SGD(0.01, 0.9), keras.losses.BinaryCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensors(_batch(pixels, batch, classes)).repeat()
    return lambda: model.fit(data, steps_per_epoch=FIT_STEPS, verbose=0)


def sgemm(pixels: int, batch: int, classes: int) -> Callable[[], Any]:
    """SGEMM_PRODUCTS products of square matrices, an upper bound of the processor."""
    matrices = [tf.random.normal((SGEMM_SIDE, SGEMM_SIDE)) for _ in range(2)]

    @tf.function
    def products() -> Any:
        found = matrices[0]
        for _ in range(SGEMM_PRODUCTS):
            found = tf.matmul(found, matrices[1])
        return found

    return lambda: products()[0, 0].numpy()


def sgemm_steps(pixels: int, batch: int, classes: int) -> float:
    """The number of steps of ResNet-101 with as many operations as `sgemm`. A step counts as three forward passes."""
    model = build("resnet101", classes)
    shaped = keras.models.clone_model(model, input_tensors=keras.Input((pixels, pixels, 3)))
    forward = sum(2 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:-1]) for layer in shaped.layers
                  if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)))
    return float(2 * SGEMM_SIDE**3 * SGEMM_PRODUCTS / (3 * forward * batch))


def full(pixels: int, batch: int, classes: int) -> Callable[[], Any]:
    """Our whole training: records, augmentation, the released loss, weight decay and the log."""
    folder = Path(tempfile.mkdtemp())
    records = _write_records(folder, classes, pixels)
    params = dataclasses.replace(PARAMS.train, batch=batch, pixels=pixels, loss="class_balanced", optimizer="momentum")
    strategy = mirrored_strategy(PARAMS.machine)
    trainer = Trainer(params, classes, strategy)
    batches = distribute(strategy, lambda context: training_batches(
        records, params, steps=10_000, readers=PARAMS.machine.workers))
    log = TrainingLog(folder / "training.csv", folder / "tensorboard", 0)
    done = iter(range(1, 10_000))

    def step() -> None:
        number = next(done)
        loss = trainer.train(batches, np.array([0.01], np.float32))
        if number % 5 == 0:
            log.row(number, number, float(loss[0]), 0.01, 1.0)

    return step


def memory() -> None:
    """Print the peak memory of the loss and its gradient, in tensors of [batch, classes], with labels and logits."""
    classes = 11_166
    for batch in (256, 2048):
        loss = ClassBalancedLoss(classes, negative_selection=1.0)
        generator = np.random.default_rng(0)
        row = (generator.random(classes) < 0.01).astype(np.float32), generator.normal(size=classes).astype(np.float32)

        @tf.function
        def run(labels: Any, logits: Any, loss: Any = loss) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(logits)
                cost = loss(labels, logits)
            return cost, tape.gradient(cost, logits)

        inputs = [tf.constant(part[None]) for part in row]
        for rows in (8, 16):  # two sizes, so that TensorFlow traces it for any batch
            run(*(tf.tile(part, [rows, 1]) for part in inputs))
        gc.collect()
        before = _status("VmRSS")
        labels, logits = (tf.tile(part, [batch, 1]) for part in inputs)
        Path("/proc/self/clear_refs").write_text("5")
        cost, gradient = run(labels, logits)
        assert np.isfinite(float(cost)) and gradient.shape == (batch, classes)
        peak = (_status("VmHWM") - before) / (4 * batch * classes)
        print(f"| loss and gradient, batch {batch} x {classes:,} classes | {peak:.2f} tensors of that shape at most |")


def start() -> None:
    """Print the time to build the network and to run the first step, after the imports."""
    began = time.monotonic()
    step = network(64, 32, 1000)
    built = time.monotonic()
    step()
    ended = time.monotonic()
    step()
    print(f"| ResNet-101, to the end of the first step | {ended - began:.1f} s | built in {built - began:.1f} s, "
          f"the second step takes {time.monotonic() - ended:.2f} s |")


def _status(name: str) -> int:
    """A value of /proc/self/status in bytes, such as VmRSS."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return int(line.split()[1]) * 1024


def _batch(pixels: int, batch: int, classes: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    return (tf.constant(generator.uniform(-1, 1, (batch, pixels, pixels, 3)).astype(np.float32)),
            tf.constant((generator.random((batch, classes)) < 0.01).astype(np.float32)))


def _write_records(folder: Path, classes: int, pixels: int) -> Records:
    """Publish shards of drawn images, a quarter larger than the network's input, with ten labels each."""
    generator = np.random.default_rng(0)
    names = [shard_name("train", index, SHARDS) for index in range(SHARDS)]
    wnid = world.CLASSES[world.INDEX[world.LEAVES[0]]].wnid
    for index, name in enumerate(names):
        with open_shard(folder / "work" / name) as add:
            for number in range(RECORDS // SHARDS):
                jpeg = to_jpeg(world.draw(f"{wnid}_{index}_{number}", pixels * 5 // 4), quality=90)
                chosen = tuple(sorted(int(one) for one in generator.choice(classes, 10, replace=False)))
                key = f"{index}-{number}"
                add(serialize(jpeg, Labels(chosen, (1.0,) * 10), filename="drawn", key=key), key)
    publish(folder / "work", folder / "tfrecords", stage="convert", records=dict.fromkeys(names, RECORDS // SHARDS),
            classes=classes)
    return Records(folder / "tfrecords", read_manifest(folder / "tfrecords", "convert"), "train")


def _steps(step: Callable[[], Any], steps_per_call: float) -> Iterator[float]:
    while True:
        began = time.monotonic()
        step()
        yield (time.monotonic() - began) / steps_per_call


def main(what: str, *sizes: str) -> None:
    if not sizes:
        {"memory": memory, "start": start}[what]()
        return
    keep_freed_memory(FOR_STEPS)  # as in our training, for all programs
    kinds = {"bare": bare, "full": full, "network": network, "applications": applications, "sgemm": sgemm}
    pixels, batch, classes = map(int, sizes)
    in_a_call = {"applications": FIT_STEPS, "sgemm": sgemm_steps(pixels, batch, classes)}.get(what, 1)
    steps = _steps(kinds[what](pixels, batch, classes), in_a_call)
    for _ in sys.stdin:
        print(f"seconds {next(steps)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
