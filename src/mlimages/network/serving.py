"""Saves a network with all that its use needs, as a .keras file and as a SavedModel. Neither needs this project."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mlimages.network.load_model import ACTIVATIONS, MODEL
from mlimages.network.model_files import ClassTable, Preprocessing

SAVED_MODEL = "saved_model"  # a folder
TOP = 5  # classes that the signature `classify` returns


def save_network(network: keras.Model, classes: ClassTable, preprocessing: Preprocessing, out: Path) -> None:
    """Write model.keras, a SavedModel, classes.csv and preprocessing.json to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    classes.write(out)
    preprocessing.write(out)
    network.save(out / MODEL)
    save_for_serving(network, classes, preprocessing, out / SAVED_MODEL)


def save_for_serving(network: keras.Model, classes: ClassTable, preprocessing: Preprocessing, out: Path) -> None:
    """Save `network` with two signatures.

    `serve`, the default, takes images, float32 [batch, height, width, 3] in [-1, 1], and returns the network's outputs,
    float32 [batch, classes].

    `classify` takes JPEG files, string [batch], and returns the names and probabilities of the TOP likeliest classes of
    each, string and float32 [batch, TOP]. It uses the central part of a picture, resized as in TensorFlow 1.
    """
    names = tf.constant([classes.label(number) for number in range(len(classes))])
    activation, side = ACTIVATIONS[preprocessing.activation], preprocessing.pixels

    def read(jpeg: Any) -> Any:
        image = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_FAST")
        height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64))
        top, left = (tf.cast((length - length * preprocessing.central_fraction) / 2, tf.int32)
                     for length in (height, width))
        crop = image[top: tf.shape(image)[0] - top, left: tf.shape(image)[1] - left]
        return tf.raw_ops.ResizeBilinear(images=crop[None], size=[side, side])[0] / 127.5 - 1

    def classify(jpegs: Any) -> dict[str, Any]:
        images = tf.map_fn(read, jpegs, fn_output_signature=tf.TensorSpec([side, side, 3], tf.float32))
        best = tf.math.top_k(activation(module.serve(images)), min(TOP, len(classes)))
        return {"names": tf.gather(names, best.indices), "probabilities": best.values}

    # Not by Keras' `export`, which writes every variable twice. `classify` calls `serve`: one trace of the network.
    module = tf.Module()
    module.weights = [variable.value for variable in network.variables]
    module.serve = tf.function(lambda images: network(images, training=False), autograph=False,
                               input_signature=[tf.TensorSpec(network.input_shape, tf.float32, name="images")])
    module.classify = tf.function(classify, autograph=False,
                                  input_signature=[tf.TensorSpec([None], tf.string, name="jpegs")])
    tf.saved_model.save(module, out, signatures={"serve": module.serve, "serving_default": module.serve,
                                                 "classify": module.classify})
