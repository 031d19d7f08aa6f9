"""The distribution of a training over replicas and workers: strategies, batches, all-reduce and errors."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.training.jobs import WorkerRole

AllReduce = Callable[[Sequence[Any]], list[Any]]


def build_strategy(params: Train, machine: Machine) -> Any:
    """Create the strategy that `train.strategy` names.

    For `multi_worker`, it waits for all workers that TF_CONFIG lists. Raises UserError for missing devices, and for
    devices that TensorFlow already uses in another configuration.
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


def shared_input(params: Train, gpus: int) -> str:
    """A recommendation if one process makes the images for several GPUs; "" otherwise."""
    if params.strategy != "mirrored" or gpus < 2:
        return ""
    return (f"one process makes the images for all {gpus} GPUs, and Python's lock limits how many it can pass on "
            f"(`python benchmarks/inputs.py serial`): if the GPUs wait for images, set train.strategy: multi_worker "
            f"with a process for each, machine.train_workers: {gpus}")


def mirrored_strategy(machine: Machine) -> Any:
    """A MirroredStrategy over all GPUs, or over `machine.logical_devices` parts of the CPU.

    Raises UserError if TensorFlow uses the CPU already, since it can no longer be split then.
    """
    if gpus := tf.config.list_physical_devices("GPU"):
        return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(len(gpus))])
    split = [tf.config.LogicalDeviceConfiguration()] * machine.logical_devices
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        if len(tf.config.get_logical_device_configuration(cpu) or [None]) != machine.logical_devices:
            tf.config.set_logical_device_configuration(cpu, split)
    except RuntimeError:
        raise UserError(f"machine.logical_devices is {machine.logical_devices}, but TensorFlow has already initialized "
                        f"the CPU; restart the kernel") from None
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(machine.logical_devices)],
                                          cross_device_ops=tf.distribute.ReductionToOneDevice())


def distribute(strategy: Any, pipeline: Callable[[Any], Any]) -> Iterator[Any]:
    """An iterator of global batches. `pipeline` returns a dataset with one element for each replica in turn.

    Batches are prefetched only to GPUs: a CPU needs no copy, and ending the prefetch can hang there. The end of a
    strategy's own iterator waits for a thread that sleeps for up to a minute, so one CPU reads the dataset itself.
    """
    ahead = bool(tf.config.list_physical_devices("GPU"))
    if strategy.num_replicas_in_sync == 1 and not ahead:
        return iter(pipeline(tf.distribute.InputContext()))
    options = tf.distribute.InputOptions(experimental_fetch_to_device=ahead)
    return iter(strategy.distribute_datasets_from_function(pipeline, options))


def replica_batch(params: Train, replicas: int) -> int:
    """The number of images of one replica in a global batch. Raises UserError if they do not divide evenly."""
    if params.batch % (replicas * params.gradient_accumulation):
        parts = f" in {params.gradient_accumulation} parts each" if params.gradient_accumulation > 1 else ""
        raise UserError(f"train.batch is {params.batch}, which {replicas} replicas cannot share evenly{parts}; "
                        f"expected a multiple of {replicas * params.gradient_accumulation}")
    return params.batch // replicas


def all_reduce(tensors: Sequence[Any]) -> list[Any]:
    """The sums of tensors over all replicas, with the strategy's options. Every replica must call it."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))


def sum_over_replicas(tensor: Any) -> Any:
    return all_reduce([tensor])[0]


def barrier(strategy: Any) -> None:
    """Return when every worker has called this.

    If a worker ends directly afterwards, another one may still wait for it, and fail.
    """
    all_equal(strategy, "")


def any_worker(strategy: Any, flag: bool) -> bool:
    """Whether at least one worker passes true. It waits for all workers."""
    return bool(_total(strategy, tf.constant(float(flag))) > 0)


def all_equal(strategy: Any, text: str) -> bool:
    """Whether all workers pass the same text, in ASCII and of equal length. It waits for all workers."""
    letters = tf.constant([0, *text.encode()], tf.float32)
    # All texts are equal if each equals the mean.
    return bool(tf.reduce_all(_total(strategy, letters) / strategy.num_replicas_in_sync == letters))


def _total(strategy: Any, tensor: Any) -> Any:
    """The sum over all replicas of a tensor that each of them has. Every worker must call it."""
    total = tf.function(lambda: strategy.run(lambda: sum_over_replicas(tensor)), autograph=False)()
    return strategy.experimental_local_results(total)[0]


class LocalSGD:
    """Local SGD: replicas take several steps by their own gradients, and then average their weights.

    It averages `variables`. Each of `replicas` replicas changes its own copy of them. `all_reduce` sums over replicas.
    Sources: Stich, arXiv 1805.09767; for averaging the velocities as well, Yu, Jin and Yang, arXiv 1905.03817.

    The replicas send the changes since the last average: in half precision, changes are more exact than values. Every
    replica must call both methods.
    """

    def __init__(self, variables: Sequence[Any], all_reduce: AllReduce, replicas: int) -> None:
        self._variables, self._all_reduce, self._replicas = list(variables), all_reduce, replicas

    @property
    def shapes(self) -> list[Any]:
        return [variable.shape for variable in self._variables]

    def snapshot(self) -> list[Any]:
        """The values of the variables, which are equal on all replicas. `average` takes them."""
        return [tf.identity(variable.value) for variable in self._variables]

    def average(self, snapshot: Sequence[Any]) -> None:
        """Set all copies to the snapshot plus the mean of the changes since."""
        sums = self._all_reduce([variable.value - start
                                 for variable, start in zip(self._variables, snapshot, strict=True)])
        for variable, start, total in zip(self._variables, snapshot, sums, strict=True):
            tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=start + total / self._replicas)


# When an error ends the collective operations of one worker, TensorFlow raises an error with the same status code on
# the others. Only its text differs. This is the only place that reads such a text; tests/launch/test_cluster.py checks
# it with a worker that fails.
# Lines that TensorFlow writes above the error of a graph.
TRACE = re.compile(r"^(Graph execution error:|Detected at node .*| +File .*)$", re.MULTILINE)
# The first words of the message after the error of another worker.
ABORTED = "Collective ops is aborted by"


def first_line(error: Any) -> str:
    """The first line of an OpError's message, without the lines of TRACE."""
    return TRACE.sub("", str(error.message)).strip().partition("\n")[0]


def own_failure(error: Any, role: WorkerRole) -> str:
    """The message for an OpError of this worker itself; "" for one that follows from the loss of another worker."""
    line = first_line(error)
    if ABORTED in line or not isinstance(error, tf.errors.InvalidArgumentError | tf.errors.ResourceExhaustedError):
        return ""
    return (f"worker {role.index} failed by itself: {line}; if memory is short, lower train.batch or raise "
            f"train.gradient_accumulation; otherwise please report this with its log")
