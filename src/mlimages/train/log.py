"""Loss, learning rate and speed as they come: a CSV file for DVC's plots, and TensorBoard."""

import csv
from pathlib import Path
from types import TracebackType

import tensorflow as tf

from mlimages.publish import write_csv

COLUMNS = ("step", "epoch", "loss", "learning_rate", "images_per_second")


class TrainingLog:
    """Appends a row at a time; opening it again drops the rows after the step that is resumed from."""

    def __init__(self, path: Path, tensorboard: Path, resumed_step: int) -> None:
        kept = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                kept = [row for row in list(csv.reader(file))[1:] if int(row[0]) <= resumed_step]
        write_csv(path, COLUMNS, kept)
        self._file = path.open("a", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._tensorboard = tf.summary.create_file_writer(str(tensorboard))

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._file.close()
        self._tensorboard.close()

    def row(self, step: int, epoch: float, loss: float, learning_rate: float, images_per_second: float) -> None:
        """What was measured over the steps since the last row; `loss` is their mean."""
        self._csv.writerow([step, f"{epoch:.4f}", f"{loss:.6g}", f"{learning_rate:.6g}", f"{images_per_second:.1f}"])
        self._file.flush()
        with self._tensorboard.as_default(step):
            tf.summary.scalar("loss", loss)
            tf.summary.scalar("learning_rate", learning_rate)
            tf.summary.scalar("images_per_second", images_per_second)
        self._tensorboard.flush()
