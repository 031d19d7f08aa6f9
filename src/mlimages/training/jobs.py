"""What a process trains, and its role among the processes that train together. Does not import TensorFlow."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mlimages.core.params import Train
from mlimages.network.checkpoint_files import METRICS


class TrainingJob(NamedTuple):
    """A training on the records in `tfrecords`. `work` is the folder of its checkpoints, its log and its result.

    `title` is printed before it begins. A `comparison` is there to be worse, and nobody uses its network: no warning is
    printed, and the result is the log, the metrics and one checkpoint.
    """

    params: Train
    tfrecords: Path
    work: Path
    title: str = ""
    comparison: bool = False

    @property
    def out(self) -> Path:
        """The folder of the result."""
        return self.work / "out"

    @property
    def finished(self) -> bool:
        """Whether the result is complete."""
        return (self.out / METRICS).exists()

    def as_json(self) -> dict[str, Any]:
        """The job as JSON values."""
        return {**self._asdict(), "params": dataclasses.asdict(self.params), "tfrecords": str(self.tfrecords.resolve()),
                "work": str(self.work.resolve())}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainingJob":
        """The job that `as_json` described."""
        return cls(**{**values, "params": Train(**values["params"]), "tfrecords": Path(values["tfrecords"]),
                      "work": Path(values["work"])})

    def is_alike(self, other: "TrainingJob") -> bool:
        """Whether the two differ at most in their initial weights: then they have the same training step."""
        start = {"initialize_from": None, "initialize_logits": True}
        one, two = ({**dataclasses.asdict(job.params), **start} for job in (self, other))
        return one == two and self.tfrecords == other.tfrecords


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
