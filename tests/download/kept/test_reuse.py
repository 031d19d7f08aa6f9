"""What was fetched is kept by URL: another list, sample, order or size of shards fetches only what is new."""

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, URLS, VAL, rows_of
from tests.download.kept.conftest import Grown

from mlimages.acquire.formats import LISTS
from mlimages.acquire.run import acquire
from mlimages.core.params import Acquire, Download, Machine
from mlimages.download.ledger import Reason
from mlimages.download.run import download
from mlimages.download.shards import read_shard

GONE = f"{HOST}/gone.jpg"


def test_one_more_line_is_one_request(grown: Grown) -> None:
    grown.download(URLS[:5])
    assert grown.asked.total() == 6
    lists = grown.download(URLS[:6])
    assert grown.asked == {"/5.jpg": 1}
    assert grown.equals_fresh(lists)


@pytest.mark.parametrize(("urls", "changes", "asked"), [
    (URLS[:12], {"images_per_shard": 3}, []), (URLS[:12], {"images_per_shard": 100}, []),
    (URLS[:7], {}, []), (URLS[11::-1], {}, []), ([URLS[20], *URLS[:12]], {}, ["/20.jpg"]),
    (URLS[:12:2] + URLS[12:14] + URLS[1:12:2], {}, ["/12.jpg", "/13.jpg"]),
    ([*URLS[:12], VAL[0]], {}, []), ([*URLS[:12], URLS[3]], {}, [])],
    ids=["smaller shards", "larger shards", "limit", "order", "first", "amid", "other part", "twice"])
def test_a_changed_list_fetches_only_what_is_new(grown: Grown, urls: list[str], changes: dict[str, Any],
                                                 asked: list[str]) -> None:
    grown.download(URLS[:12])
    lists = grown.download(urls, **changes)
    assert grown.asked == dict.fromkeys(asked, 1)
    assert grown.equals_fresh(lists, **changes)


def test_changed_labels_fetch_nothing(grown: Grown, release: Path, from_release: Acquire) -> None:
    grown.download(URLS[:7])
    (release / LISTS[1].name).write_text("".join(f"{url}\t3:0.5\n" for url in URLS[:7]))
    lists = acquire(from_release, grown.machine, out=grown.out.parent / "lists")
    download(grown.params, grown.machine, lists=lists, out=grown.out)
    assert {member.labels for member in read_shard(grown.out / "train" / "00000.tar")} == {((3,), (0.5,))}
    assert grown.equals_fresh(lists)


def test_lists_that_grow_and_shrink_again_ask_for_each_url_once(grown: Grown, server: ScriptedServer) -> None:
    for count in (3, 12, 7, 20, 12, 23):
        lists = grown.download(URLS[:count])
    assert {*server.requests.values()} == {1}
    assert grown.equals_fresh(lists)


def test_unchanged_shards_are_links_and_no_copies(grown: Grown) -> None:
    grown.download(URLS[:12])
    before = {path.name: path.stat().st_ino for path in (grown.out / "train").iterdir()}
    grown.download(URLS[:20])
    after = {path.name: path.stat().st_ino for path in (grown.out / "train").iterdir()}
    same = {name for name in before if before[name] == after[name]}
    assert same == {f"0000{number}.{end}" for number in (0, 1) for end in ("tar", "ledger.csv")}


def test_failures_keep_their_reason_until_they_are_retried(grown: Grown, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/gone.jpg", status=410)
    server.on("/gone.jpg", body=jpeg)
    grown.download([*URLS[:7], GONE])
    for urls, retry in (([GONE, *URLS[:9]], []), ([GONE, *URLS[:10]], ["timeout"])):
        grown.download(urls, retry=retry)
        assert "/gone.jpg" not in grown.asked
        row = rows_of(grown.out, "train")[0]
        assert (row.reason, row.http_status, row.detail) == (Reason.GONE, 410, "status 410")
    lists = grown.download([GONE, *URLS[:11]], retry=["gone"])
    assert grown.asked == {"/gone.jpg": 1, "/10.jpg": 1}
    assert {row.reason for row in rows_of(grown.out, "train")} == {Reason.OK}
    assert grown.equals_fresh(lists)


def test_a_shard_with_a_failure_to_retry_is_not_taken_over_as_it_is(grown: Grown, server: ScriptedServer,
                                                                    jpeg: bytes) -> None:
    server.on("/gone.jpg", status=410)
    server.on("/gone.jpg", body=jpeg)
    grown.download([GONE, *URLS[:4], URLS[5]])
    lists = grown.download([GONE, *URLS[:4], URLS[6]], retry=["gone"])
    assert grown.asked == {"/gone.jpg": 1, "/6.jpg": 1}
    assert grown.equals_fresh(lists)


def test_what_a_retry_changed_is_what_is_kept(grown: Grown, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/gone.jpg", status=410)
    server.on("/gone.jpg", body=jpeg)
    grown.download([GONE, *URLS[:7]])
    grown.download([GONE, *URLS[:7]], retry=["gone"])
    lists = grown.download([URLS[7], GONE, *URLS[:7]])
    assert grown.asked == {"/7.jpg": 1}
    assert grown.equals_fresh(lists)


@pytest.mark.parametrize("changes", [{"shorter_side": 16}, {"quality": 50}, {"ports": [80]},
                                     {"respect_opt_out": False}])
def test_images_fetched_with_other_parameters_count_as_not_fetched(grown: Grown, changes: dict[str, Any]) -> None:
    grown.download(URLS[:5])
    lists = grown.download(URLS[:6], **changes)
    assert grown.asked.total() == 7
    assert grown.equals_fresh(lists, **changes)
    grown.download(URLS[:7], **changes)
    assert grown.asked == {"/6.jpg": 1}


def test_known_placeholders_are_not_kept(grown: Grown) -> None:
    grown.download(URLS[:7])
    known = [rows_of(grown.out, "train")[3].sha256]
    lists = grown.download(URLS[:8], placeholders=known)
    assert grown.asked == {"/3.jpg": 1, "/7.jpg": 1}
    assert rows_of(grown.out, "train")[3].reason is Reason.PLACEHOLDER
    assert grown.equals_fresh(lists, placeholders=known)


def test_the_demo_keeps_nothing(tmp_path: Path, tiny_lists: Path, machine: Machine, quick: Download) -> None:
    download(quick, machine, lists=tiny_lists, out=tmp_path / "images")
    assert not (tmp_path / "scratch" / "fetched").exists()
