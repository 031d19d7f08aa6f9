"""Failed tries leave nothing on the disk."""

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, VAL, Lists, MakeFetcher, serve

from mlimages.core.params import Download, Machine
from mlimages.download.ledger import Reason
from mlimages.download.run import download

FAILURES: list[dict[str, Any]] = [{"cut": 300}, {"cut": 300, "reset": True}, {"drop": True}, {"status": 500}]


def kept(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_try_leaves_no_file(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes, tmp_path: Path,
                                     failure: dict[str, Any]) -> None:
    for _ in range(3):
        server.on("/fails.jpg", **{"body": jpeg, **failure})
    server.on("/fails.jpg", body=jpeg)
    one = fetcher()
    assert one.fetch(f"{HOST}/fails.jpg").image is None
    assert kept(tmp_path) == []
    assert one.fetch(f"{HOST}/fails.jpg").reason is Reason.OK
    assert kept(tmp_path) == [jpeg]


def test_a_finished_download_leaves_only_its_shards(quick: Download, here: Machine, server: ScriptedServer,
                                                    lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    """No spools, journals or failed tries remain."""
    urls = [f"{HOST}/{number}.jpg" for number in range(len(FAILURES))]
    for number, failure in enumerate(FAILURES):
        server.on(f"/{number}.jpg", **{"body": jpeg, **failure})
    serve(server, [*urls, *VAL], jpeg)
    download(quick, here, lists=lists_of(urls, VAL), out=tmp_path / "images")
    [work] = (tmp_path / "scratch" / "download").iterdir()
    assert {path.relative_to(work).parts[0] for path in work.rglob("*") if path.is_file()} == {
        "accounts", "fetched_with.json", "out", "params.json", "published", "results.json"}
    assert sum(jpeg in content for content in kept(work)) == 2, "one shard of each part"
