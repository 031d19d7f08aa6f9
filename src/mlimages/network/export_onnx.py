"""Write a trained network as an ONNX file.

    python -m mlimages.network.export_onnx data/model model.onnx
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

from mlimages.core.errors import UserError, command
from mlimages.network.load_model import MODEL, load_model

PACKAGES = ("onnx", "tf2onnx")
USAGE = "expected the network and the file to write: `python -m mlimages.network.export_onnx data/model model.onnx`"


def export_onnx(model: str | Path, out: str | Path) -> None:
    """Write the network of data/model, or of a .keras file, to `out`.

    The input `images` is float32 [batch, height, width, 3] in [-1, 1]. The output is that of the network, float32
    [batch, classes]. Raises UserError if there is no network, or if the packages of requirements-onnx.txt are missing.
    """
    if any(importlib.util.find_spec(name) is None for name in PACKAGES):
        raise UserError("the export needs the packages onnx and tf2onnx; run `pip install -r requirements-onnx.txt`")
    network = load_model(model).keras_model
    if network is None:
        raise UserError(f"{model} is a SavedModel; pass the {MODEL} beside it")
    # Keras exports only a network that was called before.
    sides = [side or 64 for side in network.input_shape[1:3]]
    network(np.zeros((1, *sides, 3), np.float32), training=False)
    network.export(str(out), format="onnx", verbose=False)


@command
def main(arguments: list[str]) -> None:
    if len(arguments) != 2:
        raise UserError(f"{len(arguments)} arguments, {USAGE}")
    export_onnx(*arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
