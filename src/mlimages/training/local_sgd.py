"""Local SGD: replicas take several steps by their own gradients, then meet at the mean of where those led them.

Sources: Stich, arXiv 1805.09767; the mean of the velocities, too: Yu, Jin and Yang, arXiv 1905.03817.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Exchange = Callable[[Sequence[Any]], list[Any]]


class Meeting:
    """Of `replicas`, each of which changes its own copy of `variables`; `exchange` gives sums over all of them.

    What travels are the changes since the last meeting: in few bits, those lose less than what was changed. Both
    methods are called by every replica.
    """

    def __init__(self, variables: Sequence[Any], exchange: Exchange, replicas: int) -> None:
        self._variables, self._exchange, self._replicas = list(variables), exchange, replicas

    @property
    def shapes(self) -> list[Any]:
        return [variable.shape for variable in self._variables]

    def part(self) -> list[Any]:
        """The values of the variables, the same on all replicas, for `meet`."""
        return [tf.identity(variable.value) for variable in self._variables]

    def meet(self, parted: Sequence[Any]) -> None:
        """Make all copies equal: the values at which they parted, plus the mean of the changes since."""
        sums = self._exchange([variable.value - start for variable, start in zip(self._variables, parted, strict=True)])
        for variable, start, total in zip(self._variables, parted, sums, strict=True):
            tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=start + total / self._replicas)
