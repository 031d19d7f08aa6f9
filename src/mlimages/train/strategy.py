"""The devices that train together."""

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from mlimages.errors import UserError
from mlimages.params import Machine, Train


def mirrored_strategy(machine: Machine) -> Any:
    """A MirroredStrategy over every GPU, or over the CPU split in `machine.logical_devices`.

    The split must come before TensorFlow first uses the CPU; UserError where it comes too late.
    """
    if gpus := tf.config.list_physical_devices("GPU"):
        return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(len(gpus))])
    split = [tf.config.LogicalDeviceConfiguration()] * machine.logical_devices
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        if len(tf.config.get_logical_device_configuration(cpu) or [None]) != machine.logical_devices:
            tf.config.set_logical_device_configuration(cpu, split)
    except RuntimeError:
        raise UserError(f"machine.logical_devices is {machine.logical_devices}, but TensorFlow has already taken the "
                        f"CPU as it is; restart the kernel") from None
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(machine.logical_devices)],
                                          cross_device_ops=tf.distribute.ReductionToOneDevice())


def distribute(strategy: Any, pipeline: Callable[[Any], Any]) -> Iterator[Any]:
    """The global batches of the datasets that `pipeline` makes, one element for each replica in turn.

    What brings batches to devices ahead of time is for GPUs: CPUs need none, and taking it down can hang there.
    """
    ahead = bool(tf.config.list_physical_devices("GPU"))
    options = tf.distribute.InputOptions(experimental_fetch_to_device=ahead)
    return iter(strategy.distribute_datasets_from_function(pipeline, options))


def replica_batch(params: Train, strategy: Any) -> int:
    """The images of the global batch that fall to one replica; UserError where they do not divide evenly."""
    replicas = strategy.num_replicas_in_sync
    if params.batch % (replicas * params.accumulate):
        parts = f" in {params.accumulate} parts each" if params.accumulate > 1 else ""
        raise UserError(f"train.batch is {params.batch}, which {replicas} replicas cannot share evenly{parts}; "
                        f"expected a multiple of {replicas * params.accumulate}")
    return params.batch // replicas
