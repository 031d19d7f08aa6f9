"""The linear classifier is scikit-learn's, with the regularisation that is best on held-out pictures."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mlimages.transfer.linear import REGULARISATIONS, fit_linear


def clusters(classes: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    labels = np.arange(30 * classes) % classes
    centres = generator.normal(size=(classes, 8))
    features = centres[labels] + generator.normal(scale=spread, size=(len(labels), 8))
    return features.astype(np.float32), labels, [f"picture {number}" for number in range(len(labels))]


@pytest.mark.parametrize("classes", [2, 4])
def test_the_logits_give_scikit_learns_probabilities(classes: int) -> None:
    features, labels, keys = clusters(classes, 1.5)
    fitted = fit_linear(features, labels, keys, classes)
    logits = features @ fitted.kernel + fitted.bias
    scaler = StandardScaler().fit(features)
    rival = LogisticRegression(C=fitted.c, max_iter=1000).fit(scaler.transform(features), labels)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = rival.predict_proba(scaler.transform(features))
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), expected, atol=1e-3)


def test_noisy_features_are_regularised_more_than_clear_ones() -> None:
    generator = np.random.default_rng(1)
    features, labels, keys = clusters(3, 2.0)
    noise = generator.normal(size=(len(labels), 300)).astype(np.float32)
    noisy = fit_linear(np.hstack([features, noise]), labels, keys, 3).c
    assert noisy in REGULARISATIONS and noisy < max(REGULARISATIONS)
    assert fit_linear(features[:, :8], generator.permutation(labels), keys, 3).c <= noisy


def test_the_order_of_the_pictures_does_not_matter() -> None:
    features, labels, keys = clusters(3, 1.0)
    order = np.random.default_rng(2).permutation(len(keys))
    one = fit_linear(features, labels, keys, 3)
    other = fit_linear(features[order], labels[order], [keys[index] for index in order], 3)
    assert one.c == other.c
    np.testing.assert_allclose(one.kernel, other.kernel, atol=1e-3)
