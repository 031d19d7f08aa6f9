"""Tables and pictures of costs and scale, for notebooks/explore_scale.ipynb."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from IPython.display import Markdown

from mlimages.plots import costs
from mlimages.plots.canvas import label, markdown_table
from mlimages.plots.costs import Cluster, Collection

REPLICAS = tuple(2**power for power in range(8))


def storage_table(collection: Collection, kinds: Mapping[str, tuple[float, float | None]]) -> Markdown:
    """Terabytes by kind of record, each given as bytes of label and of picture (None: as they came)."""
    rows = []
    for name, (label_bytes, picture_bytes) in kinds.items():
        found = costs.storage(collection, label_bytes=label_bytes, record_image_bytes=picture_bytes)
        rows.append([name, *(f"{one / 1e12:.2f}" for one in (found.archive, found.shards, found.records, found.total))])
    return Markdown(markdown_table(["records", "ImageNet's tars, TB", "download shards, TB", "records, TB", "all, TB"],
                                   rows))


def download_table(collection: Collection, requests_per_second: Sequence[float], seconds_per_answer: Sequence[float], *,
                   connections: int, images_per_second: float) -> Markdown:
    """Hours by how often the hosts are asked, and by how long each answer takes."""
    rows = [[f"{rate:g}", *(f"{_hours(collection, rate, seconds, connections, images_per_second):,.0f}"
                            for seconds in seconds_per_answer)] for rate in requests_per_second]
    return Markdown(markdown_table(["requests per second at most",
                                    *(f"hours at {seconds:g} s an answer" for seconds in seconds_per_answer)], rows))


def _hours(collection: Collection, rate: float, seconds: float, connections: int, images_per_second: float) -> float:
    return costs.download_hours(collection, requests_per_second=rate, connections=connections,
                                seconds_per_answer=seconds, images_per_second=images_per_second)


def training_table(images: float, epochs: float, devices: Mapping[str, float]) -> Markdown:
    """Hours of all epochs on one device, by what one makes in images per second."""
    rows = []
    for name, rate in devices.items():
        hours = costs.training_hours(images, epochs=epochs, images_per_second=rate)
        rows.append([name, f"{rate:,.1f}", f"{hours:,.0f}", f"{hours / 24 / 365:,.2f}"])
    return Markdown(markdown_table(["one device", "images/s", "device-hours", "device-years"], rows))


def scale_table(clusters: Mapping[str, Cluster], replicas: Sequence[int]) -> Markdown:
    """One row for each kind of link and number of replicas."""
    rows = [[name, one.replicas, f"{one.sent_bytes / 2**20:.0f}", f"{one.compute_seconds * 1e3:.0f}",
             f"{one.exchange_seconds * 1e3:.0f}", f"{one.efficiency:.2f}", f"{one.images_per_second:,.0f}",
             f"{one.read_bytes_per_second / 1e6:,.0f}", f"{one.cores_per_replica:.1f}"]
            for name, cluster in clusters.items() for one in costs.scales(cluster, replicas)]
    return Markdown(markdown_table(["links", "replicas", "each sends, MiB a step", "compute, ms", "exchange, ms",
                                    "efficiency", "images/s", "records read, MB/s", "input cores a replica"], rows))


def draw_scale(clusters: Mapping[str, Cluster]) -> None:
    """Efficiency, and the records that must be read, by the number of replicas, of clusters that differ in links."""
    alone = next(iter(clusters.values())).images_per_second
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    label(left, f"What is left of one replica's {alone:,.0f} images a second", "replicas", "efficiency")
    label(right, "What storage must deliver", "replicas", "records, MB/s")
    for behind, (name, cluster) in zip(range(len(clusters), 0, -1), clusters.items(), strict=True):
        found, broad = costs.scales(cluster, REPLICAS), 1.2 * behind  # so that lines on one another are seen
        left.plot(REPLICAS, [one.efficiency for one in found], linewidth=broad, label=name)
        right.plot(REPLICAS, [one.read_bytes_per_second / 1e6 for one in found], linewidth=broad)
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_xticks(REPLICAS, [str(count) for count in REPLICAS])
    left.set_ylim(0, 1.05)
    right.set_yscale("log")
    figure.legend(title="links", loc="outside right center")
    plt.show()
