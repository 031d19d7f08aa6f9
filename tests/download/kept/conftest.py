"""A list that is downloaded, and then others from the same scratch folder."""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import URLS, VAL, Lists, serve, straight

from mlimages.core import scratch
from mlimages.core.params import Download, Machine
from mlimages.core.publish import MANIFEST, verify
from mlimages.download.run import download


class Grown:
    """A list that was downloaded, and a way to download others; `asked` counts the requests of the last download."""

    def __init__(self, params: Download, machine: Machine, server: ScriptedServer, lists_of: Lists,
                 tmp_path: Path) -> None:
        self.params, self.machine, self._server, self._lists_of = params, machine, server, lists_of
        self._tmp_path, self.asked = tmp_path, Counter[str]()
        self.out = tmp_path / "images"

    def download(self, urls: list[str], val: list[str] = VAL, **changes: Any) -> Path:
        before = self._server.requests.copy()
        params = dataclasses.replace(self.params, **changes)
        lists = self._lists_of(urls, val)
        download(params, self.machine, lists=lists, out=self.out)
        verify(self.out, "download")
        self.asked = self._server.requests - before
        return lists

    def equals_fresh(self, lists: Path, **changes: Any) -> bool:
        """Whether the last download published the bytes of a download with an empty scratch folder."""
        shutil.rmtree(self._tmp_path / "straight", ignore_errors=True)
        params = dataclasses.replace(self.params, **changes)
        return (self.out / MANIFEST).read_bytes() == straight(params, self.machine, lists, self._tmp_path)


@pytest.fixture
def grown(quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes, tmp_path: Path,
          in_threads: None, monkeypatch: pytest.MonkeyPatch) -> Grown:
    monkeypatch.setattr(scratch, "imported_files", lambda module: [])  # no test changes code, and hashing it takes long
    serve(server, URLS + VAL, jpeg)
    return Grown(quick, here, server, lists_of, tmp_path)
