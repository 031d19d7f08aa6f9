"""The distribution of a training over replicas and workers: strategies, batches, all-reduce and roles."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train


def build_strategy(params: Train, machine: Machine) -> Any:
    """The strategy that `train.strategy` names.

    For `multi_worker`, TF_CONFIG lists the workers, and this waits for all of them. Raises UserError for devices that are
    absent, or that TensorFlow already uses in another configuration.
    """
    if params.strategy == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0")
    if params.strategy == "mirrored":
        return mirrored_strategy(machine)
    if machine.all_reduce == "nccl" and not tf.config.list_physical_devices("GPU"):
        raise UserError("machine.all_reduce is nccl, but there is no GPU here; set it to auto or ring")
    kind = getattr(tf.distribute.experimental.CommunicationImplementation, machine.all_reduce.upper())
    # A few large messages are faster than many small ones.
    options = tf.distribute.experimental.CommunicationOptions(implementation=kind,
                                                              bytes_per_pack=machine.all_reduce_pack_mib * 2**20)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def mirrored_strategy(machine: Machine) -> Any:
    """A MirroredStrategy over every GPU, or over the CPU, split into `machine.logical_devices`.

    Raises UserError where TensorFlow uses the CPU already, which then cannot be split.
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
    """An iterator of global batches. `pipeline` returns a dataset with one element for each replica in turn.

    Batches are prefetched to GPUs alone: a CPU needs no copy, and closing the prefetch can hang there.
    """
    ahead = bool(tf.config.list_physical_devices("GPU"))
    options = tf.distribute.InputOptions(experimental_fetch_to_device=ahead)
    return iter(strategy.distribute_datasets_from_function(pipeline, options))


def replica_batch(params: Train, replicas: int) -> int:
    """The images of one replica in a global batch; raises UserError where they do not divide evenly."""
    if params.batch % (replicas * params.gradient_accumulation):
        parts = f" in {params.gradient_accumulation} parts each" if params.gradient_accumulation > 1 else ""
        raise UserError(f"train.batch is {params.batch}, which {replicas} replicas cannot share evenly{parts}; "
                        f"expected a multiple of {replicas * params.gradient_accumulation}")
    return params.batch // replicas


def all_reduce(tensors: Sequence[Any]) -> list[Any]:
    """The sums of tensors over all replicas, by the strategy's own options. Every replica must call it."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))


def sum_over_replicas(tensor: Any) -> Any:
    return all_reduce([tensor])[0]


def barrier(strategy: Any) -> None:
    """Return when every worker has called this.

    A worker that leaves right afterwards may still be missed by another one, which then fails.
    """
    all_equal(strategy, "")


def all_equal(strategy: Any, text: str) -> bool:
    """Whether all workers pass the same text, in ASCII and of one length; it waits for all of them."""
    letters = tf.constant([0, *text.encode()], tf.float32)
    total = tf.function(lambda: strategy.run(lambda: sum_over_replicas(letters)), autograph=False)()
    # All texts are equal where each equals the mean.
    mean = strategy.experimental_local_results(total)[0] / strategy.num_replicas_in_sync
    return bool(tf.reduce_all(mean == letters))


def _ignore(**facts: object) -> None:
    """The report of a worker without a supervisor."""


@dataclasses.dataclass(frozen=True)
class WorkerRole:
    """Worker `index` of `workers`. The first one is the chief, which writes all files.

    `report(name=value)` tells a supervisor, if there is one, how far the worker is.
    """

    index: int = 0
    workers: int = 1
    report: Callable[..., None] = _ignore

    @property
    def chief(self) -> bool:
        return self.index == 0

    @property
    def single(self) -> bool:
        return self.workers == 1

    def replicas(self, total: int) -> range:
        """The numbers of this worker's replicas, of `total` over all workers."""
        own = total // self.workers
        return range(self.index * own, (self.index + 1) * own)


SINGLE_WORKER = WorkerRole()
