"""The stage train: verify the records, train the network from its last checkpoint, and publish it.

The training itself is in training/loop.py, its step in training/step.py.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlimages.core import scratch
from mlimages.core.params import Machine, Train
from mlimages.core.publish import publish, read_manifest, verify
from mlimages.launch.supervisor import run_trainings
from mlimages.launch.tf_config import read_environment
from mlimages.network.checkpoint_files import CHECKPOINTS, initial_weight_files, newest_checkpoint
from mlimages.network.initial_weights import find_initial_weights
from mlimages.training.jobs import TrainingJob


def work_folder(params: Train, machine: Machine, tfrecords: str | Path) -> Path:
    """The folder in which this training works. Raises UserError for missing records or initial weights."""
    read_manifest(tfrecords, "convert")
    return _work_folder(_settings(params, machine, tfrecords), machine)


def _settings(params: Train, machine: Machine, tfrecords: str | Path) -> dict[str, Any]:
    start = find_initial_weights(params, machine)
    return scratch.settings(params, inputs=[tfrecords], files=[] if start is None else initial_weight_files(start))


def _work_folder(settings: Mapping[str, Any], machine: Machine) -> Path:
    return scratch.root(machine) / "train" / scratch.settings_key(settings, stage="train")


def train(params: Train, machine: Machine, *, tfrecords: str | Path = "data/tfrecords",
          out: str | Path = "data/model") -> Path:
    """Train the network and publish it in `out`: model.keras, a SavedModel, the log, the metrics and the run's record.

    Raises UserError for missing or damaged records, a batch that the replicas cannot share, initial weights that do not
    fit, and a loss or gradients that are not finite; the last good checkpoint is kept. SIGTERM and SIGINT raise it too,
    after one more checkpoint.

    With `machine.launcher: environment`, this process is one of the workers of TF_CONFIG. Another one than the chief
    publishes nothing, and returns the folder of the chief's result.
    """
    manifest = verify(tfrecords, "convert", stamps=scratch.stamps(machine))
    settings = _settings(params, machine, tfrecords)
    work = _work_folder(settings, machine)
    job = TrainingJob(params, Path(tfrecords), work)
    if params.strategy == "multi_worker" and machine.launcher == "environment" and read_environment().index:
        run_trainings([job], machine)
        return job.out
    with scratch.workspace("train", machine, work.name, out, settings):
        if not job.finished:
            shutil.rmtree(job.out, ignore_errors=True)
            _print_older_training(work, settings)
            run_trainings([job], machine)
        publish(job.out, out, stage="train", records={}, architecture=params.architecture,
                classes=manifest["classes"], pixels=params.pixels, activation=params.activation)
    return Path(out)


def _print_older_training(work: Path, settings: Mapping[str, Any]) -> None:
    """Name an unfinished training of other code that has the same settings, if this one begins from step 0."""
    if newest_checkpoint(work / CHECKPOINTS) is not None:
        return
    for path in sorted(work.parent.glob(f"*/{scratch.SETTINGS}")):
        if path.parent == work or json.loads(path.read_text(encoding="utf-8")) != settings:
            continue
        checkpoint = newest_checkpoint(path.parent / CHECKPOINTS)
        if checkpoint is not None:
            print(f"{path.parent} holds an unfinished training of the same parameters and inputs. The code has changed "
                  f"since, so the weights may differ in their last bits, and this training begins from step 0. To "
                  f"begin from its weights: `dvc exp run -S train.initialize_from={checkpoint}`", flush=True)
