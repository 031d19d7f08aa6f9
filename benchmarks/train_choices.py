"""Measure the effect of each choice in the training step on this processor: the step, and variants with one change.

    python benchmarks/train_choices.py                # on a quiet machine; about five minutes
    python benchmarks/train_choices.py --isa AVX2     # as on a processor without AVX-512
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train import CLASSES, ROUNDS, SIZES, Rival, compare, lower


def replace(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def as_it_is() -> None:
    pass


def plain_convolutions() -> None:
    from mlimages.network import layers

    replace(layers, "_on_tensorflows_cpu", lambda: False)


def rule_for_avx512() -> None:
    from mlimages.network import layers

    replace(layers, "onednn_uses_avx512", lambda: True)


def rule_without_avx512() -> None:
    from mlimages.network import layers

    replace(layers, "onednn_uses_avx512", lambda: False)


def kernel_gradients_as_convolutions() -> None:
    from mlimages.network import layers

    replace(layers, "FEW_POSITIONS", 0)


def batch_norm_of_keras() -> None:
    import keras

    from mlimages.network.layers import FusedBatchNormalization

    replace(FusedBatchNormalization, "call", keras.layers.BatchNormalization.call)


def memory_given_back() -> None:
    import train_rivals

    replace(train_rivals, "keep_freed_memory", lambda options: None)


def without_layout_pass() -> None:
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"layout_optimizer": False})


def one_operation_at_a_time() -> None:
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)


def threads_that_sleep_at_once() -> None:
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.eager import context

    config = config_pb2.ConfigProto()
    config.experimental.disable_thread_spinning = True
    context.context()._config = config


CHOICES: dict[str, Callable[[], None]] = {choice.__name__: choice for choice in (
    as_it_is, plain_convolutions, rule_for_avx512, rule_without_avx512, kernel_gradients_as_convolutions,
    batch_norm_of_keras, memory_given_back, without_layout_pass, one_operation_at_a_time,
    threads_that_sleep_at_once)}


def measure(sizes: Sequence[tuple[int, int]]) -> None:
    for pixels, batch in sizes:
        rivals = [Rival(name, sys.executable, str(Path(__file__)), "--child", name, str(pixels), str(batch))
                  for name in CHOICES]
        medians = compare(rivals)
        own = medians[as_it_is.__name__]
        for name, median in medians.items():
            print(f"| {pixels} px, batch {batch} | {name.replace('_', ' ')} | {batch / median:.1f} images/s | "
                  f"{own / median:.2f} of the speed as it is |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", choices=["AVX2"], help="the instructions that oneDNN may use")
    parser.add_argument("--pixels", type=int, choices=[pixels for pixels, _ in SIZES], help="only images of this side")
    parser.add_argument("--child", nargs=3, metavar=("CHOICE", "PIXELS", "BATCH"), help="run one of the processes")
    chosen = parser.parse_args()
    if chosen.child:
        import train_rivals

        name, pixels, batch = chosen.child
        CHOICES[name]()
        train_rivals.main("network", pixels, batch, str(CLASSES))
        return
    lower(chosen.isa)
    print(f"{os.cpu_count()} cores, {platform.machine()}, {chosen.isa or 'all instructions'}, Python "
          f"{platform.python_version()}, medians of {ROUNDS}")
    measure([size for size in SIZES if chosen.pixels in (None, size[0])])


if __name__ == "__main__":
    main()
