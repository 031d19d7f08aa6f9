"""A process for `scaling.py`: `scaling_step.py STRATEGY EXCHANGE PIXELS BATCH PARTS LOCAL CORE ADDRESSES INDEX`.

It runs on one CORE, or on all with -1. For each line of its input it takes LOCAL training steps of our ResNet-50: by
one device, mirrored on two halves of the CPU, or as worker INDEX of ADDRESSES with an exchange after them. For the line
`exchange` it only exchanges tensors of the same sizes. It prints the seconds of one step. BATCH is the global batch; a
worker takes its share of it in PARTS parts.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
STRATEGY, EXCHANGE, PIXELS, BATCH, PARTS, LOCAL, CORE, ADDRESSES, INDEX = sys.argv[1:]
if int(CORE) >= 0:
    os.sched_setaffinity(0, {int(CORE)})
if STRATEGY == "multi_worker":
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": ADDRESSES.split(",")},
                                          "task": {"type": "worker", "index": int(INDEX)}})

import mlimages  # noqa: E402, F401 - sets what TensorFlow reads when it is imported

# isort: split
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from mlimages.core import tuning  # noqa: E402
from mlimages.core.params import load  # noqa: E402
from mlimages.training.distribution import build_strategy, distribute  # noqa: E402
from mlimages.training.step import Trainer  # noqa: E402

CLASSES = 1000


def main() -> None:
    loaded = load(Path(__file__).parents[1] / "params.yaml")
    params = dataclasses.replace(loaded.train, architecture="resnet50", pixels=int(PIXELS), batch=int(BATCH),
                                 gradient_accumulation=int(PARTS), local_sgd_steps=int(LOCAL),
                                 checkpoint_steps=int(LOCAL),
                                 optimizer="momentum",  # the released one, which allows float16
                                 strategy=STRATEGY,  # type: ignore[arg-type]
                                 all_reduce_dtype=EXCHANGE)  # type: ignore[arg-type]
    machine = dataclasses.replace(loaded.machine, logical_devices=2 if STRATEGY == "mirrored" else 1)
    tuning.keep_freed_memory(tuning.FOR_STEPS)  # as in training
    strategy = build_strategy(params, machine)
    trainer = Trainer(params, CLASSES, strategy, steps_per_call=int(LOCAL))
    share = int(BATCH) // strategy.num_replicas_in_sync
    generator = np.random.default_rng(0)
    images = tf.constant(generator.uniform(-1, 1, (share, int(PIXELS), int(PIXELS), 3)), tf.float32)
    labels = tf.constant(generator.random((share, CLASSES)) < 0.01, tf.float32)
    batches = distribute(strategy, lambda context: tf.data.Dataset.from_tensors((images, labels)).repeat())
    rates = np.full(int(LOCAL), 1e-4, np.float32)

    @tf.function
    def exchange() -> None:
        strategy.run(lambda: trainer.exchange([tf.zeros(shape) for shape in trainer.exchanged_shapes]))

    moved = sum(int(np.prod(shape)) for shape in trainer.exchanged_shapes)
    print(f"bytes {moved * tf.as_dtype(EXCHANGE).size // int(LOCAL)}", flush=True)
    for line in sys.stdin:
        began, worked = time.monotonic(), time.process_time()
        if line.strip() == "exchange":
            exchange()
        else:
            trainer.train(batches, rates)
        seconds, work = time.monotonic() - began, time.process_time() - worked
        print(f"seconds {seconds / int(LOCAL)} {work / int(LOCAL)}", flush=True)


if __name__ == "__main__":
    main()
