"""The stage transfer: fine-tune a trained network for other classes, of which each image has one."""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from mlimages.convert.records import class_names
from mlimages.core import scratch
from mlimages.core.errors import UserError
from mlimages.core.param_errors import checked
from mlimages.core.params import Machine, Train, Transfer
from mlimages.core.publish import MANIFEST, atomic_write, publish, read_manifest, verify, write_json
from mlimages.demo.second_world import write_pictures
from mlimages.inputs.pictures import NamedPicture
from mlimages.inputs.pipeline import Records
from mlimages.launch.supervisor import run_trainings
from mlimages.launch.tf_config import read_environment
from mlimages.network.checkpoint_files import (
    CHECKPOINTS,
    HEADLINE,
    METRICS,
    checkpoint_name,
    initial_weight_files,
)
from mlimages.network.classifier import Classifier
from mlimages.network.initial_weights import find_initial_weights
from mlimages.network.load_model import MODEL, load_keras
from mlimages.network.load_weights import load_weights
from mlimages.network.model_files import CLASSES, ClassTable, Preprocessing, read_classes
from mlimages.network.resnet import build
from mlimages.network.serving import save_network
from mlimages.training.jobs import TrainingJob
from mlimages.transfer.linear import fit_linear
from mlimages.transfer.pictures import LabelledPictures, find_pictures
from mlimages.transfer.records import write_records
from mlimages.transfer.scores import (
    EXAMPLES,
    ScoredPicture,
    accuracy,
    confident_mistakes,
    example_file,
    mistake_file,
    write_scores,
)

POLL_SECONDS = 0.2
VALIDATION = "validation.csv"  # of a training
FROM_NOTHING = "from_nothing"
# Parameters of `train` that this stage sets itself, or that its own section has under another name.
FIXED = ("seed", "initialize_from", "initialize_logits", "pixels", "earlier_pixels", "earlier_shares", "loss")


class TransferResult(NamedTuple):
    """The folder of a network, the validation pictures with its probabilities, and the contents of metrics.json."""

    network: Path
    scored: list[ScoredPicture]
    scores: dict[str, Any]


def transfer(params: Transfer, machine: Machine, *, base: Train, model: str | Path = "data/model",
             out: str | Path = "data/transfer") -> Path:
    """Train a network for the classes of labelled pictures, and publish it with its scores in `out`.

    `base` are the parameters of `train`, of which `params.training` replaces some. The training begins from `model`, or
    from `params.initialize_from`. With `params.compare`, the same training runs from random weights, too, and a linear
    classifier is fitted to the features of the network that the training begins from.

    Returns `out`. Raises UserError for a missing or damaged network, pictures that cannot be used, and as `train` does.

    With `machine.launcher: environment`, this process is one of the workers of TF_CONFIG. The first one that comes
    prepares the pictures, while the others wait. Another one than the chief only trains; it returns the folder of the
    chief's result.
    """
    if params.initialize_from is None:
        verify(model, "train", stamps=scratch.stamps(machine), select=MODEL.__eq__)
    settings = train_params(params, base, model)
    start = Path(find_initial_weights(settings, machine) or "")
    pictures = find_pictures(_folder(params, machine), params.val_share)
    key = scratch.key([params, settings, pictures.fingerprint()], files=initial_weight_files(start),
                      stage="transfer")
    records = _records(pictures, machine, params.seed)
    if settings.strategy == "multi_worker" and machine.launcher == "environment" and read_environment().index:
        work = scratch.root(machine) / "transfer" / key
        run_trainings(_jobs(params, settings, records, work), machine)
        return _result_of_the_chief(work / "out", machine)
    with scratch.workspace("transfer", machine, key, out) as work:
        if not (work / "out" / METRICS).exists():
            shutil.rmtree(work / "out", ignore_errors=True)
            _write(work, _run(params, settings, machine, start, records, work), records)
        publish(work / "out", out, stage="transfer", records={}, classes=len(pictures.classes), method=params.method)
    return Path(out)


def train_params(params: Transfer, base: Train, model: str | Path) -> Train:
    """The parameters of the training that begins from the network. Raises UserError for a wrong `params.training`."""
    if fixed := sorted(set(params.training) & set(FIXED)):
        raise UserError(f"`transfer.training.{fixed[0]}` is set by the stage transfer itself; remove it there")
    *earlier, pixels = params.pixels
    values = {**dataclasses.asdict(base), **params.training, "seed": params.seed, "loss": "softmax",
              "initialize_from": params.initialize_from or str(model), "initialize_logits": False, "pixels": pixels,
              "earlier_pixels": earlier, "earlier_shares": params.shares[:-1]}
    known = [field.name for field in dataclasses.fields(Train)]
    settings: Train = checked(Train, values, "params.yaml", "transfer.training.", known)
    return settings


def _folder(params: Transfer, machine: Machine) -> Path:
    """The folder of labelled pictures; the demo's is drawn first."""
    if params.source == "folder":
        return Path(params.folder)
    key = scratch.key(params.demo, stage="transfer")
    with scratch.persistent_folder("transfer", machine, f"demo-{key}", wait=True) as folder:
        write_pictures(folder / "pictures", params.demo)
        return folder / "pictures"


def _records(pictures: LabelledPictures, machine: Machine, seed: int) -> Path:
    """The folder of the records of these pictures."""
    key = scratch.key([pictures.fingerprint(), seed], stage="transfer")
    with scratch.persistent_folder("transfer", machine, f"records-{key}", wait=True) as folder:
        if not (folder / "tfrecords" / MANIFEST).exists():
            shutil.rmtree(folder / "work", ignore_errors=True)
            write_records(pictures, folder / "tfrecords", folder / "work", machine, seed)
        return folder / "tfrecords"


def _jobs(params: Transfer, settings: Train, records: Path, work: Path) -> list[TrainingJob]:
    """The trainings of a method: the fine-tuning first."""
    random = dataclasses.replace(settings, initialize_from=None, initialize_logits=True, freeze_through=None)
    jobs = [TrainingJob(settings, records, work / "finetune", f"fine-tuning, from {settings.initialize_from}:"),
            TrainingJob(random, records, work / FROM_NOTHING, "the same training from random weights:",
                        comparison=True)]
    return jobs[: (2 if params.compare else 1) if params.method == "finetune" else 0]


def _run(params: Transfer, settings: Train, machine: Machine, start: Path, records: Path,
         work: Path) -> TransferResult:
    """Train from `start` as the parameters say, and score every network that was trained.

    All trainings come first: this process uses no device before the workers of `multi_worker` do.
    """
    nothing = linear = None
    if params.method == "finetune":
        jobs = _jobs(params, settings, records, work)
        for job in jobs:
            job.work.mkdir(exist_ok=True)
        run_trainings(jobs, machine)
        network = jobs[0].out
        scorer = Scorer(load_keras(network / MODEL), settings, records)
        scored = scorer.scored()
        if params.compare:
            step = json.loads((jobs[1].out / METRICS).read_text(encoding="utf-8"))["published_step"]
            scorer.load(jobs[1].work / CHECKPOINTS / checkpoint_name(step))
            nothing = scorer.top_1()
            scorer.load(start, logits=False)
            scorer.fit_last_layer()
            linear = scorer.top_1()
    else:
        network = work / "linear"
        scorer = Scorer(_random_network(settings, records), settings, records)
        scorer.load(start, logits=False)
        scorer.fit_last_layer()
        scorer.save(network)
        scored = scorer.scored()
        linear = accuracy(scored)["top_1"]
        if params.compare:
            scorer = Scorer(_random_network(settings, records), settings, records)
            scorer.fit_last_layer()
            nothing = scorer.top_1()
    scores = {**accuracy(scored), "top_1_from_nothing": nothing, "top_1_linear": linear, "images": len(scored)}
    return TransferResult(network, scored, scores)


def _result_of_the_chief(out: Path, machine: Machine) -> Path:
    """Wait until the chief has written its result, and return `out`. Raises UserError if it is late."""
    deadline = time.monotonic() + machine.start_timeout
    while not (out / METRICS).exists():
        if time.monotonic() > deadline:
            raise UserError(f"worker 0, the chief, did not write {out} within machine.start_timeout, "
                            f"{machine.start_timeout:g} s; see its own output")
        time.sleep(POLL_SECONDS)
    return out


def _random_network(settings: Train, records: Path) -> keras.Model:
    keras.utils.set_random_seed(settings.seed)
    return build(settings.architecture, len(class_names(records)), stock=True)


class Scorer:
    """A network that takes the weights of one training after the other, to be scored on the validation pictures."""

    def __init__(self, network: keras.Model, settings: Train, records: Path) -> None:
        names = class_names(records)
        self._network, self._records = network, records
        self._classes = ClassTable([""] * len(names), [-1] * len(names), names)
        self._preprocessing = Preprocessing(settings.pixels, "central", settings.validation_fraction, "softmax")
        self._classifier = Classifier(network, classes=self._classes, preprocessing=self._preprocessing)

    def load(self, start: Path, *, logits: bool = True) -> None:
        """Take the weights of a network or a checkpoint, without `logits` all but those of the last layer."""
        load_weights(self._network, start, logits=logits)

    def fit_last_layer(self) -> None:
        """Fit the weights of the last layer to the training pictures."""
        stored = StoredPictures(self._records, "train")
        features = np.array([prediction.features for prediction in self._classifier.stream(stored, features=True)])
        fitted = fit_linear(features, np.array(stored.labels), stored.keys, len(self._classes))
        self._network.get_layer("logits").set_weights([fitted.kernel, fitted.bias])

    def scored(self) -> list[ScoredPicture]:
        """The validation pictures with the probabilities of the network."""
        stored = StoredPictures(self._records, "val")
        # With the features, as in `fit_last_layer`: the network is traced once.
        return [ScoredPicture(prediction.image, stored.labels[number], prediction.probabilities)
                for number, prediction in enumerate(self._classifier.stream(stored, features=True))
                if prediction.probabilities is not None]

    def top_1(self) -> float:
        """The share of the validation pictures whose class is the likeliest."""
        return accuracy(self.scored())["top_1"]

    def save(self, folder: Path) -> None:
        """Write the network with all that its use needs."""
        shutil.rmtree(folder, ignore_errors=True)
        save_network(self._network, self._classes, self._preprocessing, folder)


class StoredPictures:
    """The pictures of a part of the records, read one after the other. `keys` and `labels` are those read so far."""

    def __init__(self, records: Path, part: str) -> None:
        self._records = Records(records, read_manifest(records, "convert"), part)
        self.keys: list[str] = []
        self.labels: list[int] = []

    def __iter__(self) -> Iterator[NamedPicture]:
        for place in self._records.positions().tolist():
            example = self._records.reader.example(*place)
            self.keys.append(example.key.decode())
            self.labels.append(example.indices[0])
            yield NamedPicture(self.keys[-1], example.jpeg)


def _write(work: Path, result: TransferResult, records: Path) -> None:
    """Write what is published to `work`/out."""
    out = work / "out"
    shutil.copytree(result.network, out / "model", copy_function=os.link)
    write_scores(result.scored, read_classes(result.network / CLASSES), out)
    first = {picture.label: picture for picture in reversed(result.scored)}
    pictures = [(mistake_file(number), picture) for number, picture in enumerate(confident_mistakes(result.scored))]
    pictures += [(example_file(label), first[label]) for label in sorted(first)[:EXAMPLES]]
    stored = Records(records, read_manifest(records, "convert"), "val")
    places = dict(zip(stored.keys().tolist(), stored.positions().tolist(), strict=True))
    for name, picture in pictures:
        with atomic_write(out / name) as file:
            file.write(stored.reader.example(*places[picture.key.encode()]).jpeg)
    if (curve := work / FROM_NOTHING / "out" / VALIDATION).exists():
        shutil.copyfile(curve, out / f"{FROM_NOTHING}.csv")
    write_json(out / HEADLINE, {"transfer_top_1": result.scores["top_1"]})
    write_json(out / METRICS, result.scores)  # last: where it exists, the result is complete
