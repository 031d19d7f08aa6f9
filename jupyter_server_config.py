"""JupyterLab for this repository: kernels import `src`, and notebooks are saved without outputs.

DVC hashes the files of `notebooks/`; results belong in data/reports/.
"""

import os
import sys
from pathlib import Path

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - Jupyter puts it here

source = str(Path(__file__).resolve().parent / "src")
if source not in sys.path:
    sys.path.insert(0, source)
c.ServerApp.contents_manager_class = "mlimages.jupyter_contents.RepositoryContents"

# Kernels inherit the server's environment.
paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, [source, *paths])))
