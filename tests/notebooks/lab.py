"""JupyterLab's server as `make lab` starts it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
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


@contextlib.contextmanager
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
        wait_for(lambda: _address(info) or process.poll() is not None, PATIENCE_SECONDS)
        assert process.poll() is None, output.read_text()
        yield Jupyter(_address(info), output)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _address(folder: Path) -> str:
    """The address of the server that describes itself in `folder`, or nothing while it accepts no connection.

    The server writes its description before it listens.
    """
    for path in folder.glob("jpserver-*.json"):
        if (text := path.read_text()).endswith("}"):
            server = json.loads(text)
            with contextlib.suppress(ConnectionRefusedError), \
                    socket.create_connection((server["hostname"], server["port"]), PATIENCE_SECONDS):
                return str(server["url"])
    return ""
