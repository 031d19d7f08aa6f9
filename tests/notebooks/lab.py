"""JupyterLab's server as `make lab` starts it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.conftest import PATIENCE_SECONDS
from tests.waiting import wait_for

TOKEN = "secret"  # noqa: S105 - of a server that only the test reaches
HEADERS = {"Authorization": f"token {TOKEN}"}
# Notifications that JupyterLab would fetch from the network, in front of the notebook.
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


class Jupyter(NamedTuple):
    """A running server: its address, and the file of what it prints."""

    url: str
    output: Path


@contextmanager
def jupyter_server(repository: Path, root: Path, folder: Path) -> Iterator[Jupyter]:
    """JupyterLab's server with the repository's configuration. `folder` gets all that belongs to the user."""
    output, info = folder / "output", folder / "runtime"
    for name, values in SETTINGS.items():
        path = folder / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(info), "JUPYTER_CONFIG_DIR": str(folder / "config"),
                   "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "PYTHONPATH": ""}
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--config", str(repository / "jupyter_server_config.py"),
             "--no-browser", "--allow-root", "--ServerApp.port=0", f"--IdentityProvider.token={TOKEN}",
             f"--ServerApp.root_dir={root}"], cwd=repository, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        # The server writes this file after it has printed its address.
        wait_for(lambda: _description(info) or process.poll() is not None, PATIENCE_SECONDS)
        assert _description(info), output.read_text()
        yield Jupyter(json.loads(_description(info))["url"], output)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _description(folder: Path) -> str:
    """The JSON by which a running server describes itself in its `folder`; nothing until all of it is written."""
    return "".join(text for path in folder.glob("jpserver-*.json") if (text := path.read_text()).endswith("}"))
