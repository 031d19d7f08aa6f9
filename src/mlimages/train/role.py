"""What a process is among those that train together."""

import dataclasses
from collections.abc import Callable


def _nobody(**facts: object) -> None:
    """Where nobody watches, there is nobody to tell."""


@dataclasses.dataclass(frozen=True)
class Role:
    """Worker `index` of `workers`; the first, the chief, writes all that is written. Its supervisor is told facts."""

    index: int = 0
    workers: int = 1
    tell: Callable[..., None] = _nobody

    @property
    def chief(self) -> bool:
        return self.index == 0

    @property
    def alone(self) -> bool:
        return self.workers == 1

    def share(self, replicas: int) -> range:
        """Those of all `replicas` that are this worker's."""
        own = replicas // self.workers
        return range(self.index * own, (self.index + 1) * own)


ALONE = Role()
