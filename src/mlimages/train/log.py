"""Loss, learning rate and speed as they come: a CSV file for DVC's plots, and TensorBoard."""

import csv
from pathlib import Path
from types import TracebackType

import tensorflow as tf

from mlimages.publish import write_csv

COLUMNS = ("step", "epoch", "loss", "learning_rate", "images_per_second")


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, each with a number for every one of COLUMNS."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class TrainingLog:
    """Appends a row at a time; opening it again drops the rows after the step that is resumed from."""

    def __init__(self, path: Path, tensorboard: Path, resumed_step: int) -> None:
        kept = [row for row in read_log(path) if row["step"] <= resumed_step] if path.exists() else []
        write_csv(path, COLUMNS, [[_text(row[name]) for name in COLUMNS] for row in kept])
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
        self._csv.writerow([_text(value) for value in (step, epoch, loss, learning_rate, images_per_second)])
        self._file.flush()
        with self._tensorboard.as_default(step):
            tf.summary.scalar("loss", loss)
            tf.summary.scalar("learning_rate", learning_rate)
            tf.summary.scalar("images_per_second", images_per_second)
        self._tensorboard.flush()


def _text(value: float) -> str:
    return f"{value:.6g}" if value != int(value) else str(int(value))
