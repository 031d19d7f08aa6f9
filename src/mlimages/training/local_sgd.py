"""Local SGD: replicas take several steps by their own gradients, and then average their weights.

Sources: Stich, arXiv 1805.09767; averaging the velocities too: Yu, Jin and Yang, arXiv 1905.03817.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

AllReduce = Callable[[Sequence[Any]], list[Any]]


class LocalSGD:
    """Averages `variables`, of which each of `replicas` changes its own copy. `all_reduce` sums over the replicas.

    The replicas send the changes since the last average: in few bits, changes lose less than values. Every replica must
    call both methods.
    """

    def __init__(self, variables: Sequence[Any], all_reduce: AllReduce, replicas: int) -> None:
        self._variables, self._all_reduce, self._replicas = list(variables), all_reduce, replicas

    @property
    def shapes(self) -> list[Any]:
        return [variable.shape for variable in self._variables]

    def snapshot(self) -> list[Any]:
        """The values of the variables, equal on all replicas, as `average` takes them."""
        return [tf.identity(variable.value) for variable in self._variables]

    def average(self, snapshot: Sequence[Any]) -> None:
        """Set all copies to the snapshot plus the mean of the changes since."""
        sums = self._all_reduce([variable.value - start
                                 for variable, start in zip(self._variables, snapshot, strict=True)])
        for variable, start, total in zip(self._variables, snapshot, sums, strict=True):
            tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=start + total / self._replicas)
