"""What a training publishes can be used: by Classifier, by Keras alone, and by TensorFlow alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tests.training.outcomes import Trained

from mlimages.convert.encode_image import to_jpeg
from mlimages.demo import world
from mlimages.network import Classifier


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    return [to_jpeg(world.draw(name, pixels), quality=90).body
            for name, pixels in zip(world.image_ids(3, "val", 3), (48, 80, 33), strict=True)]


def test_a_published_network_has_its_classes_and_its_preprocessing(trained: Trained, jpegs: list[bytes]) -> None:
    classifier = Classifier(trained.out)
    assert [classifier.classes.label(number) for number in (0, 23)] == ["class 0", "class 23"]
    assert json.loads((trained.out / "preprocessing.json").read_text()) == {
        "activation": "sigmoid", "central_fraction": 0.8, "crop": "central", "pixels": 32}
    assert len(classifier.predict(jpegs, top=24)) == 3 * 24


def test_the_saved_model_classifies_jpegs_as_the_classifier_does(trained: Trained, jpegs: list[bytes]) -> None:
    found = tf.saved_model.load(trained.out / "saved_model").signatures["classify"](tf.constant(jpegs))
    expected = Classifier(trained.out).predict(jpegs, top=5)
    np.testing.assert_allclose(found["probabilities"].numpy().ravel(), expected["probability"], rtol=1e-4)
    assert [name.decode() for name in found["names"].numpy().ravel()] == expected["name"].tolist()


WITHOUT_THIS_PROJECT = """
import sys
import keras
import tensorflow as tf
assert not any(name.startswith("mlimages") for name in sys.modules)
keras.models.load_model(sys.argv[1] + "/model.keras")
print(tf.saved_model.load(sys.argv[1] + "/saved_model").signatures["classify"](
    tf.constant([open(sys.argv[2], "rb").read()]))["names"].shape)
"""


def test_a_published_network_is_used_without_this_project(trained: Trained, jpegs: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(jpegs[0])
    done = subprocess.run([sys.executable, "-c", WITHOUT_THIS_PROJECT, str(trained.out), str(tmp_path / "cat.jpg")],
                          capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1, 5)\n"
