"""URLs of a list are percent-encoded."""

from pathlib import Path

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, VAL, Lists, rows_of

from mlimages.core.params import Download, Machine
from mlimages.download.ledger import Reason
from mlimages.download.run import download


@pytest.mark.parametrize(("character", "asked"), [
    ("\u00a0", "%C2%A0"), ("\u3000", "%E3%80%80"), ("\u200c", "%E2%80%8C"), ("\u2028", "%E2%80%A8"),
    ("\U0001fadd", "%F0%9F%AB%9D"), (" ", "%20")])
def test_unusual_characters_are_percent_encoded(quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists,
                                                jpeg: bytes, tmp_path: Path, character: str, asked: str) -> None:
    url = f"{HOST}/a{character}b.jpg?c{character}d"
    server.on(f"/a{asked}b.jpg?c{asked}d", body=jpeg)
    server.on("/val.jpg", body=jpeg)
    out = download(quick, here, lists=lists_of([url], VAL), out=tmp_path / "images")
    assert [(row.url, row.reason) for row in rows_of(out, "train")] == [(url, Reason.OK)]
