"""What the full data set costs, and how training scales: arithmetic on stated rates, for notebooks/explore_scale.ipynb.

Nothing here is measured; every rate is a field or an argument, named with its unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Collection:
    """Images by where they come from, and their mean bytes: `downloaded` by URL, `archived` in ImageNet's tars.

    `share_ok` of the URLs still give an image.
    """

    downloaded: int
    archived: int
    downloaded_bytes: float
    archived_bytes: float
    share_ok: float = 1.0

    @property
    def images(self) -> float:
        """Of which there are records."""
        return self.downloaded * self.share_ok + self.archived


@dataclass(frozen=True)
class Storage:
    """Bytes on the disk, each file once: DVC's cache and the workspace are hard links to the same ones."""

    archive: float
    shards: float
    records: float

    @property
    def total(self) -> float:
        return self.archive + self.shards + self.records


def storage(collection: Collection, *, label_bytes: float, record_image_bytes: float | None = None) -> Storage:
    """What the stages keep: ImageNet's archive, download's tar shards, and the records of both.

    `label_bytes` are what a record takes beside its image; `record_image_bytes` a picture made smaller by convert,
    None where it keeps the bytes as they came.
    """
    shards = collection.downloaded * collection.share_ok * collection.downloaded_bytes
    archive = collection.archived * collection.archived_bytes
    bodies = shards + archive if record_image_bytes is None else collection.images * record_image_bytes
    return Storage(archive, shards, bodies + collection.images * label_bytes)


def download_hours(collection: Collection, *, requests_per_second: float, connections: int, seconds_per_answer: float,
                   images_per_second: float) -> float:
    """Hours to ask for every URL, all of one domain as Open Images' are: the slowest of three limits counts.

    They are the `requests_per_second` that the domain is asked at most, what so many `connections` carry one answer
    after the other, and the `images_per_second` that the machines can check and store.
    """
    rate = min(requests_per_second, connections / seconds_per_answer, images_per_second)
    return collection.downloaded / rate / 3600


def training_hours(images: float, *, epochs: float, images_per_second: float) -> float:
    """Hours at so many images per second over all devices."""
    return images * epochs / images_per_second / 3600


def implied_images_per_second(images: float, *, epochs: float, hours: float, devices: int) -> float:
    """What each device did in a training of so many hours: the inverse of `training_hours`."""
    return images * epochs / (hours * 3600) / devices


@dataclass(frozen=True)
class Cluster:
    """What a model of scale assumes, the same for every replica.

    A replica alone makes `images_per_second` at a batch of `batch`. Gradients of `gradient_bytes` are summed by a ring
    over links of `link_bytes_per_second` each way, `hop_seconds` for each of its steps and each of the packs of
    `pack_bytes`. Of the exchange, `overlap` of the backward pass, two thirds of the step, can hide as much time.
    A record has `record_bytes`; a core prepares `images_per_second_per_core`.
    """

    images_per_second: float
    batch: int
    gradient_bytes: float
    link_bytes_per_second: float
    hop_seconds: float
    pack_bytes: float
    overlap: float
    record_bytes: float
    images_per_second_per_core: float


def by_link(gigabits_per_second: Sequence[float], **assumptions: float) -> dict[str, Cluster]:
    """The same replicas over links of several speeds, by the link's name."""
    return {f"{gigabits:g} Gbit/s": Cluster(link_bytes_per_second=gigabits * 1e9 / 8, **assumptions)  # type: ignore[arg-type]
            for gigabits in gigabits_per_second}


@dataclass(frozen=True)
class Scale:
    """One step with so many replicas: bytes that each sends, seconds of its parts, and what the whole makes and needs.
    """

    replicas: int
    sent_bytes: float
    compute_seconds: float
    exchange_seconds: float
    exposed_seconds: float
    efficiency: float
    images_per_second: float
    read_bytes_per_second: float
    cores_per_replica: float


BACKWARD_SHARE = 2 / 3  # of a step: it multiplies twice where the forward pass multiplies once


def ring_bytes(gradient_bytes: float, replicas: int) -> float:
    """What each replica sends in a ring all-reduce, 2 (n - 1) / n of the gradients.

    The least that any all-reduce can do (Patarasuk and Yuan, Journal of Parallel and Distributed Computing 69, 2009).
    """
    return 2 * (replicas - 1) / replicas * gradient_bytes


def scale(cluster: Cluster, replicas: int) -> Scale:
    """A step with the same batch for every replica (weak scaling), however many there are."""
    compute = cluster.batch / cluster.images_per_second
    sent = ring_bytes(cluster.gradient_bytes, replicas)
    packs = max(1.0, cluster.gradient_bytes / cluster.pack_bytes)
    exchange = sent / cluster.link_bytes_per_second + 2 * (replicas - 1) * packs * cluster.hop_seconds
    exposed = max(0.0, exchange - cluster.overlap * BACKWARD_SHARE * compute)
    rate = replicas * cluster.batch / (compute + exposed)
    return Scale(replicas, sent, compute, exchange, exposed, efficiency=compute / (compute + exposed),
                 images_per_second=rate, read_bytes_per_second=rate * cluster.record_bytes,
                 cores_per_replica=rate / replicas / cluster.images_per_second_per_core)


def scales(cluster: Cluster, replicas: Sequence[int]) -> list[Scale]:
    """The same for several numbers of replicas."""
    return [scale(cluster, count) for count in replicas]
