"""JupyterLab for this repository: kernels import `src`, and notebooks are saved without outputs.

DVC hashes the files of `notebooks/`; results belong in data/reports/.
"""

import os
from pathlib import Path
from typing import Any

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - Jupyter puts it here


def strip_outputs(model: dict[str, Any], path: str, **_: Any) -> None:
    if model["type"] != "notebook" or not path.startswith("notebooks/"):
        return
    for cell in model["content"].get("cells", []):
        if cell["cell_type"] == "code":
            cell["outputs"] = []
            cell["execution_count"] = None
            for key in ("execution", "collapsed", "scrolled"):
                cell["metadata"].pop(key, None)
    model["content"]["metadata"].pop("widgets", None)


c.FileContentsManager.pre_save_hook = strip_outputs

# Kernels inherit the server's environment.
source = str(Path(__file__).resolve().parent / "src")
os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
