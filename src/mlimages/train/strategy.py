"""The devices that train together, in one process or in several, and what they exchange."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from mlimages.errors import UserError
from mlimages.params import Machine, Train


def build_strategy(params: Train, machine: Machine) -> Any:
    """The strategy that `train.strategy` names.

    For `multi_worker` TF_CONFIG tells of all workers, and this waits for them. UserError where the devices are not
    there, or are already in use in another way.
    """
    if params.strategy == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0")
    if params.strategy == "mirrored":
        return mirrored_strategy(machine)
    if machine.collective == "nccl" and not tf.config.list_physical_devices("GPU"):
        raise UserError("machine.collective is nccl, but there is no GPU here; set it to auto or ring")
    kind = getattr(tf.distribute.experimental.CommunicationImplementation, machine.collective.upper())
    # Many small messages are slower than few large ones.
    options = tf.distribute.experimental.CommunicationOptions(implementation=kind,
                                                              bytes_per_pack=machine.pack_mib * 2**20)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


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


def shared_input(params: Train, gpus: int) -> str:
    """What to say where one process makes the images for several GPUs; "" where none does."""
    if params.strategy != "mirrored" or gpus < 2:
        return ""
    return (f"one process makes the images for all {gpus} GPUs, and Python's lock bounds how many it hands on "
            f"(`python benchmarks/inputs.py serial`): where GPUs wait for images, take train.strategy: multi_worker "
            f"with a process for each, machine.train_workers: {gpus}")


def distribute(strategy: Any, pipeline: Callable[[Any], Any]) -> Iterator[Any]:
    """The global batches of the datasets that `pipeline` makes, one element for each replica in turn.

    What brings batches to devices ahead of time is for GPUs: CPUs need none, and taking it down can hang there.
    """
    ahead = bool(tf.config.list_physical_devices("GPU"))
    options = tf.distribute.InputOptions(experimental_fetch_to_device=ahead)
    return iter(strategy.distribute_datasets_from_function(pipeline, options))


def replica_batch(params: Train, replicas: int) -> int:
    """The images of the global batch that fall to one replica; UserError where they do not divide evenly."""
    if params.batch % (replicas * params.accumulate):
        parts = f" in {params.accumulate} parts each" if params.accumulate > 1 else ""
        raise UserError(f"train.batch is {params.batch}, which {replicas} replicas cannot share evenly{parts}; "
                        f"expected a multiple of {replicas * params.accumulate}")
    return params.batch // replicas


def all_reduce(tensors: Sequence[Any]) -> list[Any]:
    """The sums of tensors over all replicas, by the strategy's own options; to be called by every replica."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))


def sum_over_replicas(tensor: Any) -> Any:
    return all_reduce([tensor])[0]


def meet(strategy: Any, word: str = "") -> bool:
    """Return when every worker has come here; whether all have the same word, of one length and in ASCII.

    Who leaves right afterwards may still be missed by another, which then fails.
    """
    letters = tf.constant([0, *word.encode()], tf.float32)
    total = tf.function(lambda: strategy.run(lambda: sum_over_replicas(letters)), autograph=False)()
    # Where all have the mean of all, all have the same.
    mean = strategy.experimental_local_results(total)[0] / strategy.num_replicas_in_sync
    return bool(tf.reduce_all(mean == letters))
