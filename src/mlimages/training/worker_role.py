"""The role of a process among those that train together. Does not import TensorFlow."""

import dataclasses
from collections.abc import Callable


def _ignore(**facts: object) -> None:
    """The report of a worker without a supervisor."""


@dataclasses.dataclass(frozen=True)
class WorkerRole:
    """Worker `index` of `workers`. The first one is the chief, which writes all files.

    `report(name=value)` reports the worker's progress to a supervisor, if there is one.
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
