"""Checkpoints of a training: all variables after a step. A checkpoint appears complete or not at all.

    checkpoints/step-00000050/variables.index, variables.data-*   written by tf.train.Checkpoint
                              facts.json                          step, seconds, network, sha256 of the files

The batches after a checkpoint follow from its step.
"""

import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.core.publish import fsync, sha256, write_json
from mlimages.core.tuning import INTRA_OP_THREADS
from mlimages.network.checkpoint_files import (
    METADATA,
    VARIABLES,
    checkpoint_folders,
    checkpoint_name,
    read_metadata,
    validate_checkpoint,
)
from mlimages.training.schedule import NOT_VALIDATED, EarlyStopping


class ResumePoint(NamedTuple):
    """The number of finished steps, the losses that no row of the log has yet, and the state of early stopping."""

    step: int
    losses: list[float]
    early_stopping: EarlyStopping = NOT_VALIDATED


class CheckpointManager:
    """Keeps the last `kept` checkpoints in a folder, and the one with the lowest score.

    It saves `variables`. `network` describes the network, such as its number of classes, and `machine` what decides the
    last bits of the weights, such as the number of replicas: a checkpoint with other values is refused. `began` is the
    start of this run, by time.monotonic().
    """

    def __init__(self, folder: Path, variables: Mapping[str, list[Any]], network: Mapping[str, Any],
                 machine: Mapping[str, Any], kept: int, began: float) -> None:
        self._folder, self._network, self._machine, self._kept = folder, dict(network), dict(machine), kept
        self._began, self._before = began, 0.0
        self._checkpoint = tf.train.Checkpoint(**variables)

    @property
    def seconds(self) -> float:
        """The duration of the training until now: this run, and earlier ones up to the checkpoint it resumed from."""
        return self._before + time.monotonic() - self._began

    def save(self, step: int, losses: list[float], score: float | None = None,
             early_stopping: EarlyStopping = NOT_VALIDATED) -> None:
        """Save a checkpoint after `step` steps. A lower score is better. A score that is not finite is dropped.

        Raises UserError if the disk is full or fails. The checkpoint before is kept then.
        """
        final = self._folder / checkpoint_name(step)
        partial = self._folder / f".{final.name}.partial"
        for leftover in self._folder.glob(".*.partial"):
            shutil.rmtree(leftover)
        if score is not None and not math.isfinite(score):
            print(f"the score of {final.name} is {score}: it cannot be the best")
            score = None
        try:
            partial.mkdir(parents=True)
            self._checkpoint.write(str(partial / VARIABLES))
            digests = {path.name: sha256(path) for path in sorted(partial.iterdir())}
            write_json(partial / METADATA, {"step": step, "losses": losses, "score": score, "seconds": self.seconds,
                                            "early_stopping": early_stopping._asdict(), "network": self._network,
                                            "machine": self._machine, "files": digests})
            for path in [*partial.iterdir(), partial]:
                fsync(path)
            if final.exists():  # an older checkpoint of the same step
                shutil.rmtree(final)
            partial.rename(final)
            fsync(self._folder)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"{final}: {error}; the checkpoint before is kept: make room there, or set "
                            f"machine.scratch to another disk, and run the same command again") from None
        self._prune()

    def restore(self, *, mend: bool = True) -> ResumePoint:
        """Load the newest complete checkpoint. With `mend`, report and remove newer ones that are damaged.

        Returns step 0 without any checkpoint. Raises UserError if all are damaged, or for one of another network.
        """
        damaged = []
        for folder in reversed(checkpoint_folders(self._folder)):
            facts, fault = validate_checkpoint(folder)
            if facts is None:
                damaged.append((folder, fault))
                continue
            self._load(folder, facts)
            self._before = facts["seconds"]
            for other, reason in damaged if mend else []:
                print(f"{other} is damaged ({reason}); going back to {folder.name}")
                shutil.rmtree(other)
            return ResumePoint(facts["step"], facts["losses"], EarlyStopping(**facts["early_stopping"]))
        if damaged:
            faults = "; ".join(f"{folder.name}: {reason}" for folder, reason in damaged)
            raise UserError(f"every checkpoint in {self._folder} is damaged ({faults}); restore one from a backup, or "
                            f"remove the folder to train from the start")
        return ResumePoint(0, [])

    def restore_best(self) -> int:
        """Load the checkpoint with the lowest score and return its step. Raises UserError if there is none."""
        for folder, _ in self._by_score():
            facts, fault = validate_checkpoint(folder)
            if facts is not None:
                self._load(folder, facts)
                return facts["step"]
            print(f"{folder} is damaged ({fault}); taking the next best")
        raise UserError(f"{self._folder} holds no complete checkpoint with a finite score, so there is no best one; "
                        f"set train.publish to last")

    def _load(self, folder: Path, facts: Mapping[str, Any]) -> None:
        for name, expected in self._network.items():
            if facts["network"].get(name) != expected:
                raise UserError(f"{folder} is of a network with {name} {facts['network'].get(name)}, expected "
                                f"{expected}; remove {self._folder} to train from the start")
        for name, expected in self._machine.items():
            if facts["machine"].get(name) != expected:
                raise UserError(f"{folder} was trained with {name} {facts['machine'].get(name)!r}, here it is "
                                f"{expected!r}, which gives other weights: resume on the same kind of machine (see "
                                f"machine.* in params.yaml; {INTRA_OP_THREADS} sets intra_op_threads), or begin a new "
                                f"training from it: `dvc exp run -S train.initialize_from={folder}`; remove "
                                f"{self._folder} to train from the start")
        self._checkpoint.read(str(folder / VARIABLES)).assert_consumed()

    def _by_score(self) -> list[tuple[Path, dict[str, Any]]]:
        """The checkpoints that have a score, the best first. Only their facts.json is read."""
        scored = [(folder, facts) for folder in checkpoint_folders(self._folder)
                  if (facts := read_metadata(folder)[0]) is not None and facts["score"] is not None]
        return sorted(scored, key=lambda one: one[1]["score"])

    def _prune(self) -> None:
        """Remove all checkpoints but the last ones and the best. It hashes no file, since weights are large."""
        best = {folder for folder, _ in self._by_score()[:1]}
        for folder in set(checkpoint_folders(self._folder)[: -self._kept]) - best:
            shutil.rmtree(folder)
