"""Classifies pictures with a trained network, and computes features and heat maps.

    python -m mlimages.network.classifier PICTURES... [--model data/model] [--top 5] [--csv predictions.csv]
"""

import argparse
import codecs
import csv
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from mlimages.acquire.hierarchy import read_tree
from mlimages.core.errors import UserError, command
from mlimages.core.parallel import ordered_map
from mlimages.core.publish import atomic_write
from mlimages.images.decode import Undecodable
from mlimages.inputs.pictures import NamedPicture, PictureLike, count_pictures, read_pictures, to_pixels
from mlimages.inputs.preprocess import evaluation_crop, ten_crops
from mlimages.network.feature_files import FEATURE_FILES
from mlimages.network.load_model import ACTIVATIONS, MODEL, load_model
from mlimages.network.load_weights import load_weights
from mlimages.network.model_files import (
    CLASSES,
    PREPROCESSING,
    ClassTable,
    Crop,
    Preprocessing,
    read_classes,
    read_imagenet_classes,
)
from mlimages.network.resnet import resnet, stage_outputs

COLUMNS = ("image", "rank", "class", "name", "probability")
FEATURES, LOGITS = "features", "logits"  # layers of mlimages.network.resnet
DECODERS = 4  # threads
MAP_SIDE = 7  # rows and columns of a heat map before it is resized, at least: those of the last stage with 224 pixels


class Prediction(NamedTuple):
    """The outputs for one picture: `probabilities`, float32 [classes], and `features`, float32 [channels].

    `features` is None unless requested. For a picture that cannot be read, both are None and `error` is the reason.
    """

    image: str
    probabilities: np.ndarray | None
    features: np.ndarray | None
    error: str | None


class Classifier:
    """A trained network with its class names and its preprocessing.

    `model` is data/model, a .keras file, or the folder of a SavedModel. Its classes.csv and preprocessing.json, which
    the stage train publishes, are read from the same folder. For a network from elsewhere, pass `classes`, a CSV file
    with the columns class and name, and `preprocessing`. `crop` replaces that of the preprocessing: `central`,
    `shorter_side`, or `ten_crops`, which averages probabilities and features over ten crops.

    A SavedModel is a program: load only one that you trust. Code in a .keras file does not run.

    Raises UserError for a missing or damaged network, and if the class names are missing or their number differs from
    the network's, or if it is unknown whether the outputs are logits.
    """

    def __init__(self, model: str | Path | keras.Model = "data/model", *,
                 classes: str | Path | ClassTable | None = None, preprocessing: Preprocessing | None = None,
                 crop: Crop | None = None, batch: int = 16) -> None:
        self._model = load_model(model)
        found = preprocessing or self._model.preprocessing
        if found is None:
            raise UserError(f"it is not known how pictures become the input of this network: no {PREPROCESSING} lies "
                            f"beside it; pass preprocessing=Preprocessing(pixels=..., crop=..., ...)")
        self._preprocessing = found
        self._activation = self._model.require_activation(found.activation)
        self.classes = classes if isinstance(classes, ClassTable) else read_classes(_class_file(model, classes))
        if self._model.classes not in (None, len(self.classes)):
            raise UserError(f"the network has {self._model.classes} classes, but {len(self.classes)} are named; pass "
                            f"the {CLASSES} that was published with this network")
        self._crop = crop or found.crop
        self._batch = batch
        self._functions: dict[bool, Any] = {}

    @classmethod
    def released(cls, checkpoint: str | Path, dictionary: str | Path, *, depth: int = 101, pixels: int = 224,
                 crop: Crop = "shorter_side", activation: Literal["sigmoid", "softmax"] = "sigmoid",
                 batch: int = 16) -> "Classifier":
        """A classifier with a checkpoint that Tencent released, such as model.ckpt (without .index).

        `dictionary` is the released dictionary_and_semantic_hierarchy.txt. For the checkpoint that was fine-tuned on
        ImageNet, it is imagenet2012_dictionary.txt, and `activation` is "softmax".
        """
        classes = _released_classes(Path(dictionary))
        network = resnet(depth, len(classes), stock=True)
        load_weights(network, checkpoint)
        return cls(network, classes=classes, batch=batch,
                   preprocessing=Preprocessing(pixels=pixels, crop=crop, central_fraction=0.8, activation=activation))

    def predict(self, pictures: Sequence[PictureLike], top: int = 5) -> pd.DataFrame:
        """Return the `top` likeliest classes of each picture.

        `pictures` are file names, bytes of files, uint8 arrays [height, width, 3] or [height, width], or PIL images.
        Returns a DataFrame with the columns image, rank, class, name and probability. `image` is the file's name, or
        the picture's place in `pictures`. Raises UserError for a picture that cannot be read.
        """
        rows = [row for prediction in self._predictions(pictures, features=False) for row in self.best(prediction, top)]
        return pd.DataFrame(rows, columns=COLUMNS)

    def features(self, pictures: Sequence[PictureLike]) -> np.ndarray:
        """Return the outputs of the layer before the logits: float32 [pictures, channels].

        ResNet-101 has 2,048 channels. Raises UserError for a picture that cannot be read, and for a network without
        this layer.
        """
        found = [prediction.features for prediction in self._predictions(pictures, features=True)]
        return np.array(found, np.float32).reshape(len(found), -1)

    def heatmap(self, picture: PictureLike, class_name: str | int) -> np.ndarray:
        """Return the positive evidence for a class: float32 [height, width] of the picture, from 0 to 1.

        It is the HiResCAM (Draelos and Carin, arXiv 2011.08891) of the last stage with at least MAP_SIDE x MAP_SIDE
        positions, divided by its maximum in this picture, and 0 outside of the crop. In the last stage, as with 224
        pixels, it is the class activation map (Zhou et al., arXiv 1512.04150). `class_name` is a name, a WordNet id or
        a number. Raises UserError for an unknown class, and for a network that is no ResNet of this project.
        """
        [heat] = self.heatmaps([picture], [class_name])
        return heat

    def heatmaps(self, pictures: Sequence[PictureLike], class_names: Sequence[str | int]) -> list[np.ndarray]:
        """Return the `heatmap` of each picture for the class at the same place in `class_names`."""
        indices = [self.classes.find(name) for name in class_names]
        crop: Crop = "central" if self._crop == "central" else "shorter_side"
        heats = []
        for start in range(0, len(pictures), self._batch):
            images = [to_pixels(picture) for picture in pictures[start: start + self._batch]]
            squares = np.stack([self._square(image, crop) for image in images])
            for image, evidence in zip(images, self._evidence(squares, indices[start: start + self._batch]),
                                       strict=True):
                left, top, width, height = self._box(image, crop)
                heat = np.zeros(image.shape[:2], np.float32)
                heat[top: top + height, left: left + width] = cv2.resize(evidence, (width, height))
                heats.append(np.clip(heat, 0, 1))
        return heats

    def _evidence(self, squares: np.ndarray, indices: Sequence[int]) -> np.ndarray:
        """The HiResCAM of each square for a class, in the positions of a stage: float32 [squares, rows, columns].

        It is the sum over the channels of activation times gradient, and 0 where that is negative. Grad-CAM averages
        the gradient over the positions first. In early stages, its maximum lies beside the object far more often.
        """
        lower, upper = self._heat_parts
        maps = lower(squares, training=False)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(maps)
            scores = tf.gather(upper(maps, training=False), list(indices), axis=1, batch_dims=1)
        evidence = tf.nn.relu(tf.reduce_sum(tape.gradient(scores, maps) * maps, axis=-1)).numpy()
        return evidence / np.maximum(evidence.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)

    @functools.cached_property
    def _heat_parts(self) -> tuple[keras.Model, keras.Model]:
        """The network up to the stage of the heat map, and from there to the logits."""
        network, logits, side = self._keras_model(), self._layer(LOGITS), self._preprocessing.pixels
        self._layer(FEATURES)
        stages = stage_outputs(network)
        [images] = network.inputs
        outputs = keras.Model(images, stages)(np.zeros((1, side, side, 3), np.float32), training=False)
        chosen = next((stage for stage, output in zip(stages, outputs, strict=True)
                       if min(output.shape[1:3]) >= MAP_SIDE), stages[-1])
        return keras.Model(images, chosen), keras.Model(chosen, logits.output)

    def best(self, prediction: Prediction, top: int) -> list[tuple[str, int, int, str, float]]:
        """The rows of the `top` likeliest classes: image, rank from 1, class, name and probability."""
        scores = np.array(prediction.probabilities)
        return [(prediction.image, rank, index, self.classes.label(index), float(scores[index]))
                for rank, index in enumerate(np.argsort(-scores, kind="stable")[:top].tolist(), start=1)]

    def stream(self, pictures: Iterable[NamedPicture], *, features: bool = False) -> Iterator[Prediction]:
        """Yield a Prediction for each picture, in order. Memory does not grow with the number of pictures."""
        decoded = ordered_map(self._decode, pictures, workers=DECODERS, window=2 * self._batch)
        batch: list[tuple[str, np.ndarray | None, str | None]] = []
        for item in decoded:
            batch.append(item)
            if len(batch) == self._batch:
                yield from self._run(batch, features)
                batch = []
        yield from self._run(batch, features)

    def _predictions(self, pictures: Sequence[PictureLike], *, features: bool) -> Iterator[Prediction]:
        """Yield the predictions of a list of pictures. Raises UserError for the first one that cannot be read."""
        if isinstance(pictures, str | bytes | Path | np.ndarray | Image.Image):
            raise UserError("one picture was passed, expected a list of pictures, such as [picture]")
        named = ((str(one) if isinstance(one, str | Path) else str(number), one) for number, one in enumerate(pictures))
        for prediction in self.stream(named, features=features):  # type: ignore[arg-type]
            if prediction.error:
                raise UserError(f"{prediction.image}: {prediction.error}")
            yield prediction

    def _decode(self, picture: tuple[str, Any]) -> tuple[str, np.ndarray | None, str | None]:
        name, body = picture
        try:
            return name, self._square(to_pixels(body), self._crop), None
        except (Undecodable, UserError) as error:
            return name, None, str(error)

    def _square(self, image: np.ndarray, crop: Crop) -> np.ndarray:
        """The network's input for a picture: float32 [pixels, pixels, 3], or [10, pixels, pixels, 3] for ten crops."""
        if crop == "ten_crops":
            return ten_crops(image, pixels=self._preprocessing.pixels)
        return evaluation_crop(image, pixels=self._preprocessing.pixels, preprocessing=crop,
                               central_fraction=self._preprocessing.central_fraction)

    def _box(self, image: np.ndarray, crop: Crop) -> tuple[int, int, int, int]:
        """The left, top, width and height of the crop, in pixels of the picture."""
        height, width = image.shape[:2]
        if crop == "central":
            left, top = (int((side - side * self._preprocessing.central_fraction) / 2) for side in (width, height))
            return left, top, width - 2 * left, height - 2 * top
        side = max(1, round(min(height, width) * 7 / 8))
        return (width - side) // 2, (height - side) // 2, side, side

    def _run(self, batch: Sequence[tuple[str, np.ndarray | None, str | None]], features: bool) -> Iterator[Prediction]:
        """The predictions of one batch."""
        squares = [square for _, square, _ in batch if square is not None]
        outputs: Iterator[Any] = iter(())
        if squares:
            crops = np.stack(squares)
            flat = crops.reshape(-1, *crops.shape[-3:])
            found = self._function(features)(flat)
            arrays = [array.numpy().reshape(len(squares), -1, array.shape[-1]).mean(axis=1) for array in found]
            outputs = iter(zip(arrays[0], arrays[1] if features else [None] * len(squares), strict=True))
        for name, square, error in batch:
            probabilities, vector = next(outputs) if square is not None else (None, None)
            yield Prediction(name, probabilities, vector, error)

    def _function(self, features: bool) -> Any:
        """The compiled function from images to a list: the probabilities and, with `features`, the features."""
        if features not in self._functions:
            call, activation, side = self._model.call, ACTIVATIONS[self._activation], self._preprocessing.pixels
            if features:
                network = self._keras_model()
                part = keras.Model(network.inputs, [network.outputs[0], self._layer(FEATURES).output])

            def outputs(images: Any) -> list[Any]:
                logits, *others = part(images, training=False) if features else [call(images)]
                return [activation(tf.cast(logits, tf.float32)), *(tf.cast(other, tf.float32) for other in others)]

            # One trace for batches of every length.
            self._functions[features] = tf.function(outputs, input_signature=[
                tf.TensorSpec([None, side, side, 3], tf.float32)])
        return self._functions[features]

    def _keras_model(self) -> keras.Model:
        if self._model.keras_model is None:
            raise UserError(f"features and heat maps need a Keras network, found a SavedModel; pass the {MODEL} beside "
                            f"it")
        return self._model.keras_model

    def _layer(self, name: str) -> Any:
        network = self._keras_model()
        if name not in [layer.name for layer in network.layers]:
            raise UserError(f"the network has no layer `{name}`, which features and heat maps need; expected a network "
                            f"that this project trained")
        return network.get_layer(name)


def _released_classes(dictionary: Path) -> ClassTable:
    """The classes of one of the two released dictionaries. Raises UserError for a missing or another file."""
    try:
        with dictionary.open(encoding="utf-8") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{dictionary} cannot be read: {error}; expected a dictionary that Tencent released") from None
    if first.startswith("0\t"):
        return read_imagenet_classes(dictionary)
    tree = read_tree(dictionary)
    return ClassTable(tree.wnids, tree.parents, tree.names)


def _class_file(model: str | Path | keras.Model, classes: str | Path | None) -> Path:
    """The path of the class names: `classes`, else that of classes.csv beside the network."""
    if classes is not None:
        return Path(classes)
    if isinstance(model, keras.Model):
        raise UserError("a keras.Model has no class names; pass classes=, a CSV file with the columns class and name")
    path = Path(model)
    places = [folder / CLASSES for folder in (path, path.parent)]
    found = [place for place in places if place.exists()]
    if not found:
        raise UserError(f"{path} has no class names: {places[-1]} is missing; pass classes=, a CSV file with the "
                        f"columns class and name")
    return found[0]


def classify(classifier: Classifier, places: Sequence[str], *, top: int, predictions: Path | None = None,
             features: Path | None = None) -> int:
    """Classify the pictures at `places`, and return the number of those that cannot be read.

    `predictions` is the CSV file to write, with the columns image, rank, class, name and probability. Without it the
    classes are printed. `features` is the .npy or .parquet file to write, with a row for each picture; with a .npy
    file, the names of the pictures are the lines of FEATURES.images.txt. A picture that cannot be read is named on
    standard error and skipped.
    """
    failures = 0
    with ExitStack() as stack:
        if predictions:
            text = codecs.getwriter("utf-8")(stack.enter_context(atomic_write(predictions)))
            table = csv.writer(text, lineterminator="\n")
        else:
            table = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        add = stack.enter_context(FEATURE_FILES[features.suffix](features)) if features else None
        bar = stack.enter_context(tqdm(desc="classify", total=count_pictures(places), unit=" pictures", disable=None))
        for prediction in classifier.stream(read_pictures(places), features=features is not None):
            bar.update()
            if prediction.error:
                failures += 1
                tqdm.write(f"{prediction.image}: {prediction.error}", file=sys.stderr)
                continue
            table.writerows(classifier.best(prediction, top))
            if add:
                add(prediction.image, np.array(prediction.features))
    return failures


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 1 if a picture cannot be read, and 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m mlimages.network.classifier",
                                     description="The likeliest classes of pictures, and their features.")
    parser.add_argument("pictures", nargs="+", help="files, folders, glob patterns or tar files")
    parser.add_argument("--model", default="data/model",
                        help="a folder that train made, a .keras file or the folder of a SavedModel; %(default)s")
    parser.add_argument("--classes", help="a CSV file with the columns class and name; the one beside the model")
    parser.add_argument("--crop", choices=get_args(Crop), help="replaces the crop that was published with the model")
    parser.add_argument("--top", type=int, default=5, help="classes of each picture; %(default)s")
    parser.add_argument("--csv", type=Path, help="write the classes to this file instead of printing them")
    parser.add_argument("--features", type=Path, help="write the features to this .npy or .parquet file")
    options = parser.parse_args(arguments)
    if options.top < 1:
        raise UserError(f"--top is {options.top}, expected at least 1")
    if options.features and options.features.suffix not in FEATURE_FILES:
        raise UserError(f"--features is {options.features}, expected a name that ends with "
                        f"{' or '.join(FEATURE_FILES)}")
    classifier = Classifier(options.model, classes=options.classes, crop=options.crop)
    failures = classify(classifier, options.pictures, top=options.top, predictions=options.csv,
                        features=options.features)
    if failures:
        print(f"{failures} pictures could not be read", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
