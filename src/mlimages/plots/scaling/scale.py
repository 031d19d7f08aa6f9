"""Tables and plots of costs and scaling for notebooks/explore_scale.ipynb."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from mlimages.network.checkpoint_files import METRICS
from mlimages.plots.canvas import COUNT, display_table, label, read_json
from mlimages.plots.scaling import costs
from mlimages.plots.scaling.costs import DatasetVolume, ScalingModel

REPLICAS = tuple(2**power for power in range(8))


def last_training(model: str | Path) -> dict[str, float]:
    """The images per second of the training in `model`, by a name. Without one, it prints a hint and returns {}."""
    path = Path(model) / METRICS
    if not path.exists():
        print(f"{path} is missing; run `make repro` to see the speed of your own training here")
        return {}
    return {"this repository's last training": read_json(model, METRICS)["images_per_second"]}


def storage_table(dataset: DatasetVolume, kinds: Mapping[str, tuple[float, float | None]]) -> pd.DataFrame:
    """Terabytes for each kind of record, which is given as bytes of labels and of the image (None: unchanged)."""
    found = {name: costs.storage(dataset, label_bytes=labels, record_image_bytes=image)
             for name, (labels, image) in kinds.items()}
    rows = [(one.total / 1e12, one.records / 1e12, one.shards / 1e12, one.archive / 1e12) for one in found.values()]
    columns = ["total, TB", "records, TB", "download shards, TB", "ImageNet's tars, TB"]
    return display_table(pd.DataFrame(rows, pd.Index(found, name="records"), columns), dict.fromkeys(columns, "{:.2f}"))


def download_table(dataset: DatasetVolume, requests_per_second: Sequence[float], seconds_per_answer: Sequence[float],
                   *, connections: int, images_per_second: float) -> pd.DataFrame:
    """Hours for each number of requests per second to the domain, and for each duration of an answer."""
    hours = {f"hours at {seconds:g} s an answer": [
        costs.download_hours(dataset, requests_per_second=rate, connections=connections, seconds_per_answer=seconds,
                             images_per_second=images_per_second) for rate in requests_per_second]
        for seconds in seconds_per_answer}
    rates = pd.Index([f"{rate:g}" for rate in requests_per_second], name="requests per second")
    return display_table(pd.DataFrame(hours, rates), dict.fromkeys(hours, COUNT))


def training_table(images: float, epochs: float, devices: Mapping[str, float]) -> pd.DataFrame:
    """Hours and years of all epochs on one device, with the fastest device first."""
    rates = pd.Series(devices).sort_values(ascending=False)
    hours = costs.training_hours(images, epochs=epochs, images_per_second=rates)
    frame = pd.DataFrame({"device-hours": hours, "device-years": hours / 24 / 365, "images/s": rates})
    return display_table(frame.rename_axis("one device"),
                         {"device-hours": COUNT, "device-years": "{:,.2f}", "images/s": "{:,.1f}"})


def scaling_table(models: Mapping[str, ScalingModel], replicas: Sequence[int]) -> pd.DataFrame:
    """A row for each kind of link and number of replicas."""
    steps = {(name, count): model.step(count) for name, model in models.items() for count in replicas}
    columns = {"efficiency": "{:.2f}", "images/s": COUNT, "compute, ms": COUNT, "all-reduce, ms": COUNT,
               "each sends, MiB a step": COUNT, "records read, MB/s": COUNT, "input cores a replica": "{:.1f}"}
    rows = [(step.efficiency, step.images_per_second, 1e3 * step.compute_seconds, 1e3 * step.all_reduce_seconds,
             step.sent_bytes / 2**20, step.read_bytes_per_second / 1e6, step.cores_per_replica)
            for step in steps.values()]
    index = pd.MultiIndex.from_tuples(steps, names=["links", "replicas"])
    return display_table(pd.DataFrame(rows, index, list(columns)), columns)


def plot_scaling(models: Mapping[str, ScalingModel]) -> None:
    """Show the efficiency, and the bytes of records to read, over the number of replicas, for each kind of link.

    Links with nearly equal curves share a line, whose label names all of them.
    """
    alone = next(iter(models.values())).images_per_second
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    label(left, f"Efficiency: the share of a single replica's {alone:,.0f} images/s", "replicas", "efficiency")
    label(right, "Records that storage must deliver", "replicas", "records, MB/s")
    names: dict[tuple[float, ...], list[str]] = {}
    for name, model in models.items():
        names.setdefault(tuple(round(model.step(count).efficiency, 2) for count in REPLICAS), []).append(name)
    for alike in names.values():
        steps = [models[alike[0]].step(count) for count in REPLICAS]
        left.plot(REPLICAS, [step.efficiency for step in steps], label="\n".join(alike))
        right.plot(REPLICAS, [step.read_bytes_per_second / 1e6 for step in steps])
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_xticks(REPLICAS, [str(count) for count in REPLICAS])
    left.set_ylim(0, 1.05)
    right.set_yscale("log")
    figure.legend(title="links", loc="outside right center")
    plt.show()
