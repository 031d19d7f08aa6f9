"""JupyterLab's access to the files of this repository. jupyter_server_config.py names this class."""

from pathlib import Path
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado.web import HTTPError

from mlimages.notebook import clean

REPOSITORY = Path(__file__).resolve().parents[2]


class RepositoryContents(AsyncLargeFileManager):
    """Saves notebooks of `notebooks/` clean, and shows everything below `data/` as read-only.

    A file below `data/` may be a hard link to DVC's cache, and DVC would not notice that its bytes have changed.
    Jupyter's root may be any folder.
    """

    def is_writable(self, path: str) -> bool:
        """Whether JupyterLab may save this file. It saves such a file automatically every two minutes."""
        return not self._file(path).is_relative_to(REPOSITORY / "data") and super().is_writable(path)

    def run_pre_save_hooks(self, model: dict[str, Any], path: str, **options: Any) -> None:
        """Clean a notebook before it is saved. Raises tornado.web.HTTPError for a file below `data/`."""
        if self._file(path).is_relative_to(REPOSITORY / "data"):
            raise HTTPError(403, f"{path} is a result of `dvc repro`, which Jupyter does not change; use `File`, `Save "
                                 f"Notebook As` to save a copy outside of data/")
        if model["type"] == "notebook" and self._file(path).is_relative_to(REPOSITORY / "notebooks"):
            clean(model["content"])
        super().run_pre_save_hooks(model, path, **options)

    def _file(self, path: str) -> Path:
        return Path(self.root_dir, path.strip("/")).resolve()
