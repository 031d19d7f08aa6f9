"""Changed limits judge the kept images again, and fetch only what cannot be judged without a request."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, URLS, rows_of
from tests.download.kept.conftest import Grown
from tests.images.crafted import encoded

from mlimages.core import scratch
from mlimages.core.params import Download, Mirror
from mlimages.download.kept import DECISIVE
from mlimages.download.ledger import Reason
from mlimages.download.run import FORMAT

# The other pictures are JPEGs of 48 x 40 pixels and some 800 bytes.
ODD = encoded(Image.linear_gradient("L").resize((96, 24)), "PNG")
LISTED = [*URLS[:7], f"{HOST}/odd.jpg", *URLS[7:12]]
# A picture that the limit refuses. It accepts the other pictures.
STRICT = [(ODD + bytes(3000), {"max_bytes": 2000}, Reason.TOO_LARGE),
          (ODD, {"max_pixels": 2000}, Reason.TOO_MANY_PIXELS), (ODD, {"min_bytes": 500}, Reason.TOO_FEW_BYTES),
          (ODD, {"min_side": 40}, Reason.TOO_SMALL), (ODD, {"max_aspect_ratio": 3.9}, Reason.ASPECT_RATIO)]
# Limits that accept all pictures.
WIDE: dict[str, Any] = {"max_bytes": 10**6, "max_pixels": 96 * 24, "min_bytes": 100, "min_side": 24,
                       "max_aspect_ratio": 4.0}


def inodes(grown: Grown) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (grown.out / "train").iterdir()}


@pytest.mark.parametrize("more", [[], URLS[12:13]], ids=["the same list", "a longer list"])
@pytest.mark.parametrize(("odd", "strict", "reason"), STRICT, ids=[reason for *_, reason in STRICT])
def test_a_stricter_limit_refuses_kept_images_and_a_looser_one_fetches_them(
        grown: Grown, server: ScriptedServer, odd: bytes, strict: dict[str, Any], reason: Reason,
        more: list[str]) -> None:
    server.on("/odd.jpg", body=odd)
    new = dict.fromkeys((url.removeprefix(HOST) for url in more), 1)
    grown.download(LISTED)
    before = inodes(grown)
    lists = grown.download([*LISTED, *more], **strict)
    assert grown.asked == new, "a kept image was fetched to refuse it"
    assert [row.reason for row in rows_of(grown.out, "train")].index(reason) == 7
    assert grown.equals_fresh(lists, **strict)
    assert {name for name in before if before[name] == inodes(grown)[name]} >= {"00000.tar", "00000.ledger.csv"}
    lists = grown.download([*LISTED, *more])
    assert grown.asked == {}, "the first download has the image"
    assert grown.equals_fresh(lists)


@pytest.mark.parametrize(("odd", "strict", "reason"), STRICT, ids=[reason for *_, reason in STRICT])
def test_under_a_looser_limit_what_was_refused_is_fetched(grown: Grown, server: ScriptedServer, odd: bytes,
                                                          strict: dict[str, Any], reason: Reason) -> None:
    server.on("/odd.jpg", body=odd)
    grown.download(LISTED, **strict)
    assert rows_of(grown.out, "train")[7].reason is reason
    lists = grown.download(LISTED)
    assert grown.asked == {"/odd.jpg": 1}
    assert grown.equals_fresh(lists)


def test_limits_that_accept_all_images_fetch_nothing_and_copy_nothing(grown: Grown, server: ScriptedServer) -> None:
    server.on("/odd.jpg", body=ODD)
    grown.download(LISTED)
    before = inodes(grown)
    lists = grown.download(LISTED, **WIDE)
    assert grown.asked == {}
    assert inodes(grown) == before
    assert grown.equals_fresh(lists, **WIDE)


def test_refused_images_stay_refused_under_a_stricter_limit(grown: Grown, server: ScriptedServer) -> None:
    server.on("/odd.jpg", body=ODD)
    grown.download(LISTED, min_side=30)
    lists = grown.download(LISTED, min_side=40)
    assert grown.asked == {}
    assert grown.equals_fresh(lists, min_side=40)


@pytest.mark.parametrize(("strict", "asked"), [
    ({"min_side": 12}, 0), ({"max_aspect_ratio": 1.5}, 0), ({"min_side": 20}, 13), ({"max_aspect_ratio": 1.21}, 13),
    ({"max_bytes": 10**6}, 13), ({"min_bytes": 100}, 13)])
def test_images_that_were_made_smaller_are_fetched_if_they_do_not_tell_their_size(
        grown: Grown, strict: dict[str, Any], asked: int) -> None:
    grown.download(URLS[:12], shorter_side=16)
    lists = grown.download(URLS[:12], shorter_side=16, **strict)
    assert grown.asked.total() == asked
    assert grown.equals_fresh(lists, shorter_side=16, **strict)


def test_a_refused_image_is_fetched_if_another_mirror_may_have_a_better_one(grown: Grown, server: ScriptedServer,
                                                                            jpeg: bytes) -> None:
    server.on("/odd.jpg", body=ODD)
    server.on("/large/odd.jpg", body=jpeg)
    mirrors = [Mirror("{url}"), Mirror(f"{HOST}/large/{{path}}")]
    grown.download(LISTED, mirrors=mirrors)
    lists = grown.download(LISTED, mirrors=mirrors, min_side=40)
    assert grown.asked == {"/odd.jpg": 1, "/large/odd.jpg": 1}
    assert {row.reason for row in rows_of(grown.out, "train")} == {Reason.OK}
    assert grown.equals_fresh(lists, mirrors=mirrors, min_side=40)


def test_only_images_whose_certificates_were_verified_count_with_verify(grown: Grown) -> None:
    def verified() -> bool:
        return json.loads((grown.out / "summary.json").read_text())["certificates_verified"]

    grown.download(URLS[:5], verify=False)
    grown.download(URLS[:6], verify=False)
    assert (grown.asked, verified()) == ({"/5.jpg": 1}, False)
    grown.download(URLS[:7])
    assert (grown.asked.total(), verified()) == (8, True), "an image of a host without a certificate was used"
    lists = grown.download(URLS[:8], verify=False)
    assert (grown.asked, verified()) == ({"/7.jpg": 1}, False), "verified images were fetched again"
    assert grown.equals_fresh(lists, verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_the_folder_of_an_older_version_is_found(grown: Grown, verify: bool) -> None:
    lists = grown.download(URLS[:6])
    [work] = grown.out.parent.glob("scratch/download/*")
    (work / "fetched_with.json").unlink()
    if not verify:
        (work / "unverified").touch()
    work.rename(work.with_name(old_key(grown.params, lists)))
    grown.download(URLS[:6])
    assert grown.asked.total() == (0 if verify else 7)


def old_key(params: Download, lists: Path) -> str:
    """The name of a work folder before limits were in it."""
    values = {name: getattr(params, name) for name in ("images_per_shard", *DECISIVE)}
    return scratch.key({"format": FORMAT, **values}, inputs=[lists])
