"""The ONNX file of a network gives the network's outputs in ONNX Runtime."""

from pathlib import Path

import keras
import numpy as np
import pytest

from mlimages.network import export_onnx as exporting
from mlimages.network.export_onnx import main
from mlimages.network.resnet import resnet


def test_the_onnx_file_computes_the_same(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX: pip install -r requirements-onnx.txt")
    pytest.importorskip("tf2onnx", reason="needs ONNX: pip install -r requirements-onnx.txt")
    keras.utils.set_random_seed(0)
    model = resnet((1, 2, 1), 9, width=8, stock=True)
    generator = np.random.default_rng(0)
    for layer in model.layers:  # batch norm that does something
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.weights:
                variable.assign(variable.numpy() + generator.uniform(0, 0.1, variable.shape))
    model.save(tmp_path / "model.keras")
    assert main([str(tmp_path / "model.keras"), str(tmp_path / "model.onnx")]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for images, side in ((1, 32), (3, 48)):
        batch = generator.uniform(-1, 1, (images, side, side, 3)).astype(np.float32)
        [found] = session.run(None, {session.get_inputs()[0].name: batch})
        np.testing.assert_allclose(found, model(batch, training=False), rtol=0, atol=1e-4)


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch,
                                                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    assert main(["data/model", "model.onnx"]) == 2
    assert "pip install -r requirements-onnx.txt" in capsys.readouterr().err


def test_wrong_arguments_are_answered_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "0 arguments, expected the network and the file to write" in capsys.readouterr().err
