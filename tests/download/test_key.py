"""Fetched images are kept when code changes without a new FORMAT."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, VAL, Lists, serve
from tests.images.crafted import encoded

import mlimages
from mlimages.core.params import Download, Machine, Params
from mlimages.download import run
from mlimages.download.ledger import LedgerRow, Reason
from mlimages.download.run import FORMAT, download
from mlimages.download.spool import Journal, LineResult, StoredImage

GIF = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")
KEY = """
import sys
from mlimages.download.run import _key
from mlimages.core.params import load
print(_key(load(sys.argv[1]).download, sys.argv[2], "folder"))
"""


def key_with(source: Path, lists: Path) -> str:
    params = Path(__file__).parents[2] / "params.yaml"
    return subprocess.run([sys.executable, "-c", KEY, str(params), str(lists)], check=True, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(source)}).stdout


def test_changed_comments_and_docstrings_fetch_nothing_again(lists_of: Lists, tmp_path: Path) -> None:
    lists, edited = lists_of([f"{HOST}/0.jpg"], VAL), tmp_path / "src"
    shutil.copytree(Path(mlimages.__file__).parents[1], edited)
    for path in edited.rglob("*.py"):
        path.write_text(path.read_text().replace('"""', '"""Edited. ', 1) + "\n# A comment.\n")
    assert key_with(edited, lists) == key_with(Path(mlimages.__file__).parents[1], lists)


def test_a_new_ledger_column_fetches_only_the_demo_again(params: Params, lists_of: Lists,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    lists = lists_of([f"{HOST}/0.jpg"], VAL)
    keys = [run._key(params.download, lists, source) for source in ("demo", "folder")]
    monkeypatch.setattr(LedgerRow, "_fields", (*LedgerRow._fields, "another"))
    demo, folder = [run._key(params.download, lists, source) for source in ("demo", "folder")]
    assert demo != keys[0] and folder == keys[1]


def test_the_same_responses_give_the_bytes_of_this_format(quick: Download, here: Machine, server: ScriptedServer,
                                                          lists_of: Lists, tmp_path: Path) -> None:
    """If this fails, see the comment of FORMAT in src/mlimages/download/run.py and update the values here.

    Of an image that is kept, and of a white one that is made smaller, whose pixels no processor rounds otherwise.
    """
    urls = [f"{HOST}/{number}.jpg" for number in range(3)]
    serve(server, [urls[0], *VAL], GIF)
    server.on("/1.jpg", body=encoded(Image.new("RGB", (96, 64), "white"), "PNG"))
    quick = dataclasses.replace(quick, shorter_side=32)
    out = download(quick, here, lists=lists_of(urls, VAL), out=tmp_path / "images")
    [account] = tmp_path.glob("scratch/download/*/accounts/train-00000.json")
    made = [*(out / "train" / f"00000.{end}" for end in ("tar", "ledger.csv")), account]
    journal = Journal(tmp_path, "train-00000")
    journal.add([LineResult(1, Reason.OK, 200, 0, StoredImage("train-00000.f00.spool", 0, 43, "abc", 1, 1, "gif"))])
    content = b"".join(path.read_bytes() for path in [*made, journal.path])
    assert (FORMAT, hashlib.sha256(content).hexdigest()[:16]) == (3, "0d9474f62baf9f92")
