"""Checkpoints of a whole training: weights, optimizer, loss counters and step; the data follow from the step."""

from pathlib import Path
from typing import Any

import tensorflow as tf

KEPT = 3


class Checkpoints:
    """The last KEPT checkpoints in a folder. Each is whole: TensorFlow writes beside and renames."""

    def __init__(self, folder: Path, model: Any, optimizer: Any, loss: Any) -> None:
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        counters = {str(index): variable.value for index, variable in enumerate(loss.variables)}
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, loss=tf.train.Checkpoint(**{
            f"counter_{index}": value for index, value in counters.items()}), step=self._step)
        self._checkpoint = checkpoint
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=KEPT)

    def restore(self) -> int:
        """Load the newest checkpoint; returns the steps that were done, 0 where there is none."""
        if self._manager.latest_checkpoint is None:
            return 0
        self._checkpoint.restore(self._manager.latest_checkpoint).assert_consumed()
        return int(self._step.numpy())

    def save(self, step: int) -> None:
        """Save after `step` steps."""
        self._step.assign(step)
        self._manager.save(checkpoint_number=step)
