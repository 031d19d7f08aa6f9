"""Train the network on the record shards, resuming from the last checkpoint, and publish it."""

import shutil
from pathlib import Path

from mlimages.core import scratch
from mlimages.core.params import Machine, Train
from mlimages.core.publish import publish, read_manifest, verify
from mlimages.launch.environment import train_in_place
from mlimages.launch.supervisor import supervise
from mlimages.launch.tf_config import read_environment
from mlimages.network.checkpoint_files import CHECKPOINTS, METRICS, initial_weight_files
from mlimages.network.initial_weights import find_initial_weights


def work_folder(params: Train, machine: Machine, tfrecords: str | Path) -> Path:
    """Where this training works, and resumes from; UserError without records, or without what to start from."""
    read_manifest(tfrecords, "convert")
    start = find_initial_weights(params, machine)
    first = initial_weight_files(start) if start is not None else []
    return scratch.root(machine) / "train" / scratch.key(params, inputs=[tfrecords], files=first, stage="train")


def train(params: Train, machine: Machine, *, tfrecords: str | Path = "data/tfrecords",
          out: str | Path = "data/model") -> Path:
    """Publish the trained network in `out`: model.keras, a SavedModel, the log of the training, its metrics and record.

    Raises UserError for missing or damaged records, a batch that the replicas cannot share, a checkpoint to start from
    that does not fit, and a loss or gradients that are no longer finite; the last checkpoint stays then. So it does
    after SIGTERM and SIGINT, which save one more.

    With `machine.launcher: environment`, this process is one of the workers of TF_CONFIG. Another one than the chief
    publishes nothing, and returns the folder of the chief's result.
    """
    manifest = verify(tfrecords, "convert", stamps=scratch.stamps(machine))
    work = work_folder(params, machine, tfrecords)
    if params.strategy == "multi_worker" and machine.launcher == "environment" and read_environment().index:
        if not (work / "out" / METRICS).exists():
            train_in_place(params, machine, tfrecords=Path(tfrecords), work=work)
        return work / "out"
    with scratch.workspace("train", machine, work.name, out):
        if not (work / "out" / METRICS).exists():
            shutil.rmtree(work / "out", ignore_errors=True)
            _train(params, machine, Path(tfrecords), work)
            shutil.rmtree(work / CHECKPOINTS)
        publish(work / "out", out, stage="train", records={}, architecture=params.architecture,
                classes=manifest["classes"], pixels=params.pixels, activation=params.activation)
    return Path(out)


def _train(params: Train, machine: Machine, tfrecords: Path, work: Path) -> None:
    if params.strategy == "multi_worker" and machine.launcher == "environment":
        train_in_place(params, machine, tfrecords=tfrecords, work=work)
    elif params.strategy == "multi_worker":
        supervise(params, machine, tfrecords=tfrecords, work=work)
    else:
        from mlimages.training.loop import fit  # which imports TensorFlow

        fit(params, machine, tfrecords=tfrecords, work=work)
