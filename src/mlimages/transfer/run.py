"""The stage transfer: fine-tune a trained network for other classes, of which each image has one."""

import dataclasses
import os
import shutil
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
from mlimages.launch.supervisor import run_training
from mlimages.network.checkpoint_files import HEADLINE, METRICS, initial_weight_files
from mlimages.network.classifier import Classifier
from mlimages.network.initial_weights import find_initial_weights
from mlimages.network.load_model import MODEL
from mlimages.network.load_weights import load_weights
from mlimages.network.model_files import CLASSES, ClassTable, Preprocessing, read_classes
from mlimages.network.resnet import build
from mlimages.network.serving import save_network
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
    """
    if params.initialize_from is None:
        verify(model, "train", stamps=scratch.stamps(machine), select=MODEL.__eq__)
    settings = train_params(params, base, model)
    if settings.strategy == "multi_worker" and machine.launcher == "environment":
        raise UserError("transfer prepares its pictures in one process, and cannot run in several that something else "
                        "starts; set machine.launcher to local, slurm or ray")
    start = find_initial_weights(settings, machine)
    pictures = find_pictures(_folder(params, machine), params.val_share)
    key = scratch.key([params, settings, pictures.fingerprint()], files=initial_weight_files(start or ""),
                      stage="transfer")
    with scratch.workspace("transfer", machine, key, out) as work:
        records = _records(pictures, machine, params.seed)
        result = _run(params, settings, machine, records, work)
        shutil.rmtree(work / "out", ignore_errors=True)
        _write(work, result, records)
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
        return Path(params.folder or "")
    key = scratch.key(params.demo, stage="transfer")
    with scratch.persistent_folder("transfer", machine, f"demo-{key}") as folder:
        write_pictures(folder / "pictures", params.demo)
        return folder / "pictures"


def _records(pictures: LabelledPictures, machine: Machine, seed: int) -> Path:
    """The folder of the records of these pictures."""
    key = scratch.key([pictures.fingerprint(), seed], stage="transfer")
    with scratch.persistent_folder("transfer", machine, f"records-{key}") as folder:
        if not (folder / "tfrecords" / MANIFEST).exists():
            shutil.rmtree(folder / "work", ignore_errors=True)
            write_records(pictures, folder / "tfrecords", folder / "work", machine, seed)
        return folder / "tfrecords"


def _run(params: Transfer, settings: Train, machine: Machine, records: Path, work: Path) -> TransferResult:
    """Train as the parameters say, and score every network that was trained."""
    random = dataclasses.replace(settings, initialize_from=None, initialize_logits=True, freeze_through=None)
    nothing = linear = None
    if params.method == "linear":
        fitted = FittedClassifier(settings, machine, records)
        fitted.save(work / "linear")
        network, scored = work / "linear", list(_scored(fitted.classifier, records))
        linear = accuracy(scored)["top_1"]
        if params.compare:
            nothing = _top_1(FittedClassifier(random, machine, records).classifier, records)
    else:
        print(f"fine-tuning, from {settings.initialize_from}:", flush=True)
        network = _finetune(settings, machine, records, work / "finetune")
        scored = list(_scored(Classifier(network), records))
        if params.compare:
            print("the same training from random weights:", flush=True)
            nothing = _top_1(Classifier(_finetune(random, machine, records, work / FROM_NOTHING)), records)
            linear = _top_1(FittedClassifier(settings, machine, records).classifier, records)
    scores = {**accuracy(scored), "top_1_from_nothing": nothing, "top_1_linear": linear, "images": len(scored)}
    return TransferResult(network, scored, scores)


def _finetune(settings: Train, machine: Machine, records: Path, work: Path) -> Path:
    """The folder of a network that was trained on the records. The training resumes from its last checkpoint."""
    if not (work / "out" / METRICS).exists():
        work.mkdir(exist_ok=True)
        run_training(settings, machine, tfrecords=records, work=work)
    return work / "out"


class FittedClassifier:
    """A network whose last layer alone is fitted to the training records."""

    def __init__(self, settings: Train, machine: Machine, records: Path) -> None:
        names = class_names(records)
        self._classes = ClassTable([""] * len(names), [-1] * len(names), names)
        self._preprocessing = Preprocessing(settings.pixels, "central", settings.validation_fraction, "softmax")
        keras.utils.set_random_seed(settings.seed)
        self._network = build(settings.architecture, len(names), stock=True)
        if (start := find_initial_weights(settings, machine)) is not None:
            load_weights(self._network, start, logits=False)
        self.classifier = Classifier(self._network, classes=self._classes, preprocessing=self._preprocessing)
        stored = StoredPictures(records, "train")
        features = np.array([prediction.features for prediction in self.classifier.stream(stored, features=True)])
        fitted = fit_linear(features, np.array(stored.labels), stored.keys, len(names))
        self._network.get_layer("logits").set_weights([fitted.kernel, fitted.bias])

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


def _scored(classifier: Classifier, records: Path) -> Iterator[ScoredPicture]:
    """The validation pictures with the probabilities that a network gives."""
    stored = StoredPictures(records, "val")
    for number, prediction in enumerate(classifier.stream(stored)):
        if prediction.probabilities is not None:
            yield ScoredPicture(prediction.image, stored.labels[number], prediction.probabilities)


def _top_1(classifier: Classifier, records: Path) -> float:
    return accuracy(_scored(classifier, records))["top_1"]


def _write(work: Path, result: TransferResult, records: Path) -> None:
    """Write what is published to `work`/out."""
    out = work / "out"
    shutil.copytree(result.network, out / "model", copy_function=os.link)
    write_scores(result.scored, read_classes(result.network / CLASSES), out)
    files = {picture.key: mistake_file(number) for number, picture in enumerate(confident_mistakes(result.scored))}
    examples = set[int]()
    stored = StoredPictures(records, "val")
    for picture in stored:
        if picture.name in files:
            _write_picture(out / files[picture.name], picture)
        if len(examples) < EXAMPLES and (label := stored.labels[-1]) not in examples:
            examples.add(label)
            _write_picture(out / example_file(label), picture)
    if (curve := work / FROM_NOTHING / "out" / VALIDATION).exists():
        shutil.copyfile(curve, out / f"{FROM_NOTHING}.csv")
    write_json(out / METRICS, result.scores)
    write_json(out / HEADLINE, {"transfer_top_1": result.scores["top_1"]})


def _write_picture(path: Path, picture: NamedPicture) -> None:
    with atomic_write(path) as file:
        file.write(picture.body)
