"""A look at some validation images now and then, while the network is trained."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from mlimages.errors import UserError
from mlimages.train.inputs import Records, evaluation_batches
from mlimages.train.step import Trainer

BATCH = 50
CENTRAL_FRACTION = 0.8
SHOWN = 4


class Tried(NamedTuple):
    """The mean loss, every class weighted alike; the first images, their confidences, and the network's probabilities.

    `names` are those of the classes.
    """

    loss: float
    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    names: Sequence[str]


class Validation:
    """The first `images` of the validation records; UserError where there are none.

    They are decoded anew each time: what is kept in memory does not grow with their number. `activation`, a name of
    Keras', makes probabilities of logits.
    """

    def __init__(self, records: Records, names: Sequence[str], *, images: int, pixels: int, activation: str,
                 readers: int) -> None:
        if not len(records):
            raise UserError("train.validation_images asks for validation images, but there are no validation records; "
                            "set it to 0, or run `dvc repro convert` with some")
        batches = evaluation_batches(records, batch=BATCH, pixels=pixels, preprocessing="central",
                                     central_fraction=CENTRAL_FRACTION, readers=readers)
        self._batches = batches.unbatch().take(images).batch(BATCH)
        self._names = names
        self._activation: Callable[[Any], Any] = keras.activations.get(activation)

    def run(self, trainer: Trainer, tell: Callable[..., None]) -> Tried:
        """Try the network; `tell(validated=...)` counts the images for whoever waits."""
        losses, seen, first = 0.0, 0, None
        for images, labels, _ in self._batches:
            loss, logits = trainer.evaluate(images, labels)
            losses += float(loss) * len(images)
            seen += len(images)
            tell(validated=seen)
            if first is None:
                first = Tried(float("nan"), images[:SHOWN].numpy(), labels[:SHOWN].numpy(),
                              self._activation(logits[:SHOWN]).numpy(), self._names)
        if first is None:
            raise UserError("the validation records hold no image; set train.validation_images to 0")
        return first._replace(loss=losses / seen)
