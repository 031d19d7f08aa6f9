"""A linear classifier on the features of a network that does not change: multinomial logistic regression."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C
HELD_OUT = 0.2  # the share of the training pictures on which C is chosen
ITERATIONS = 1000
FEW = 10_000  # pictures, below which several threads of BLAS mostly wait for each other: minutes on busy cores


class LinearClassifier(NamedTuple):
    """Logits are features @ kernel + bias: float32 [channels, classes] and [classes]. `c` is the chosen C."""

    kernel: np.ndarray
    bias: np.ndarray
    c: float


def fit_linear(features: np.ndarray, labels: np.ndarray, keys: Sequence[str], classes: int) -> LinearClassifier:
    """Fit scikit-learn's LogisticRegression to features, float32 [pictures, channels], and labels, int [pictures].

    C is the one of REGULARISATIONS with the best accuracy on the held-out pictures, those with the lowest hashes of
    their keys, after a fit to the others. The result is then fitted to all pictures.
    """
    ranks = np.argsort([hashlib.sha256(key.encode()).digest() for key in keys], kind="stable")
    held_out = np.zeros(len(keys), bool)
    held_out[ranks[: int(HELD_OUT * len(keys))]] = True
    with threadpool_limits(1 if len(keys) < FEW else None, "blas"):
        accuracies = [_accuracy(features, labels, held_out, c) for c in REGULARISATIONS]
        c = REGULARISATIONS[int(np.argmax(accuracies))]
        scaler, model = _fit(features, labels, c)
    # The scaler is a part of the linear function: x @ (w / scale) + (b - mean @ (w / scale)).
    kernel = np.zeros((features.shape[1], classes))
    bias = np.full(classes, -np.inf)
    weights = model.coef_.T / np.where(scaler.scale_ > 0, scaler.scale_, 1)[:, None]
    offsets = model.intercept_ - scaler.mean_ @ weights
    if len(model.classes_) == 2:  # scikit-learn keeps one column for two classes
        weights, offsets = np.hstack([-weights / 2, weights / 2]), np.concatenate([-offsets / 2, offsets / 2])
    kernel[:, model.classes_], bias[model.classes_] = weights, offsets
    return LinearClassifier(kernel.astype(np.float32), bias.astype(np.float32), c)


def _accuracy(features: np.ndarray, labels: np.ndarray, held_out: np.ndarray, c: float) -> float:
    """The accuracy on the held-out pictures; 0 where what is left to fit has one class."""
    if not held_out.any() or len(set(labels[~held_out].tolist())) < 2:
        return 0.0
    scaler, model = _fit(features[~held_out], labels[~held_out], c)
    return float(model.score(scaler.transform(features[held_out]), labels[held_out]))


def _fit(features: np.ndarray, labels: np.ndarray, c: float) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(features)
    return scaler, LogisticRegression(C=c, max_iter=ITERATIONS).fit(scaler.transform(features), labels)
