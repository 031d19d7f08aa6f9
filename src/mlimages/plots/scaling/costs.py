"""Estimates of the costs of the full data set and of the scaling of training, for notebooks/explore_scale.ipynb.

Every rate is an argument or a field whose name states its unit; nothing is measured here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BACKWARD_SHARE = 2 / 3  # of a step: it multiplies twice where the forward pass multiplies once


@dataclass(frozen=True)
class DatasetVolume:
    """Images `downloaded` by URL and `archived` in ImageNet's tars, and their mean bytes.

    The share `share_ok` of the URLs still have an image.
    """

    downloaded: int
    archived: int
    downloaded_bytes: float
    archived_bytes: float
    share_ok: float = 1.0


@dataclass(frozen=True)
class StorageEstimate:
    """Bytes on disk. Each file counts once: DVC's cache and the workspace share files by hard links."""

    archive: float
    shards: float
    records: float

    @property
    def total(self) -> float:
        return self.archive + self.shards + self.records


def storage(dataset: DatasetVolume, *, label_bytes: float, record_image_bytes: float | None = None) -> StorageEstimate:
    """The bytes of ImageNet's archive, of the download's tar shards, and of the records of both.

    A record has `label_bytes` of labels and an image of `record_image_bytes`. None means unchanged images.
    """
    downloaded = dataset.downloaded * dataset.share_ok
    shards, archive = downloaded * dataset.downloaded_bytes, dataset.archived * dataset.archived_bytes
    images = downloaded + dataset.archived
    bodies = shards + archive if record_image_bytes is None else images * record_image_bytes
    return StorageEstimate(archive, shards, bodies + images * label_bytes)


def download_hours(dataset: DatasetVolume, *, requests_per_second: float, connections: int, seconds_per_answer: float,
                   images_per_second: float) -> float:
    """The hours to request all URLs, which belong to one domain, as in Open Images. The slowest of three limits counts.

    The limits are `requests_per_second` to the domain, `connections` with one answer at a time each, and the
    `images_per_second` that the machines check and store.
    """
    rate = min(requests_per_second, connections / seconds_per_answer, images_per_second)
    return dataset.downloaded / rate / 3600


def training_hours(images: float, *, epochs: float, images_per_second: float) -> float:
    """The hours of a training, given the speed of all devices together."""
    return images * epochs / images_per_second / 3600


def images_per_second(images: float, *, epochs: float, hours: float, devices: int) -> float:
    """The speed of each device in a training of known hours; the inverse of `training_hours`."""
    return images * epochs / (hours * 3600) / devices


@dataclass(frozen=True)
class StepEstimate:
    """One training step: the bytes that each replica sends, the seconds of its parts, and the rates of all replicas.

    `exposed_seconds` is the part of the all-reduce that does not overlap with computing.
    """

    replicas: int
    sent_bytes: float
    compute_seconds: float
    all_reduce_seconds: float
    exposed_seconds: float
    efficiency: float
    images_per_second: float
    read_bytes_per_second: float
    cores_per_replica: float


@dataclass(frozen=True)
class ScalingModel:
    """The assumptions of weak scaling: the batch of a replica is constant, and all replicas are equally fast.

    A replica alone has a speed of `images_per_second` at a batch of `batch`. A ring all-reduce adds up gradients of
    `gradient_bytes` over links of `link_bytes_per_second` each way, in messages of `message_bytes`; each message takes
    `hop_seconds` more at each hop. The all-reduce overlaps with a share `overlap` of the backward pass. A record has
    `record_bytes`, and a core prepares `images_per_second_per_core`.
    """

    images_per_second: float
    batch: int
    gradient_bytes: float
    link_bytes_per_second: float
    hop_seconds: float
    message_bytes: float
    overlap: float
    record_bytes: float
    images_per_second_per_core: float

    def step(self, replicas: int) -> StepEstimate:
        """The estimate for a number of replicas.

        A replica sends 2 (n - 1) / n times the bytes of the gradients, the minimum for an all-reduce of n replicas
        (Patarasuk and Yuan, Journal of Parallel and Distributed Computing 69, 2009).
        """
        compute = self.batch / self.images_per_second
        sent = 2 * (replicas - 1) / replicas * self.gradient_bytes
        messages = max(1.0, self.gradient_bytes / self.message_bytes)
        all_reduce = sent / self.link_bytes_per_second + 2 * (replicas - 1) * messages * self.hop_seconds
        exposed = max(0.0, all_reduce - self.overlap * BACKWARD_SHARE * compute)
        rate = replicas * self.batch / (compute + exposed)
        return StepEstimate(replicas, sent, compute, all_reduce, exposed, efficiency=compute / (compute + exposed),
                            images_per_second=rate, read_bytes_per_second=rate * self.record_bytes,
                            cores_per_replica=rate / replicas / self.images_per_second_per_core)


def by_link(gigabits_per_second: Sequence[float], **assumptions: float) -> dict[str, ScalingModel]:
    """A model for each speed of the links, by the name of the link."""
    return {f"{gigabits:g} Gbit/s": ScalingModel(link_bytes_per_second=gigabits * 1e9 / 8, **assumptions)  # type: ignore[arg-type]
            for gigabits in gigabits_per_second}
