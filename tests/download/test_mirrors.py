"""download.mirrors: rules in their order, and tables of images."""

import base64
import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, VAL, Lists, command, rows_of
from tests.faults import DISK, assert_user_error, needs_unshare, on_small_disk
from tests.images.crafted import encoded, exif, scene

from mlimages.convert.encode_image import to_jpeg
from mlimages.core.errors import UserError
from mlimages.core.params import Download, Machine, Mirror
from mlimages.download.ledger import Reason
from mlimages.download.lines import Address
from mlimages.download.mirrors import COLUMNS, Mirrors
from mlimages.download.run import download
from mlimages.download.shards import read_shard
from mlimages.images.decode import ImageFile

URL = "https://farm1.staticflickr.com/5/a.jpg?x=1"


def write_table(path: Path, rows: dict[str, tuple[str, bytes]]) -> str:
    """Write a table of images in Open Images' format; `rows` maps URLs to the id and the bytes of the original."""
    lines = [",".join(["ImageID", "Subset", "OriginalURL", "OriginalLandingURL", "OriginalMD5"])]
    for url, (image, body) in rows.items():
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode() if body else ""
        lines.append(f"{image},train,{url},{url}.html,{md5}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_rules_give_each_address_once_in_their_order(tmp_path: Path) -> None:
    rules = [Mirror("{url}"), Mirror("http://mirror.example/{host}/{path}", host="farm1.staticflickr.com"),
             Mirror("{scheme}://{host}/{path}"), Mirror("http://never.example/{path}", host="nobody.example")]
    assert Mirrors(rules, tmp_path).addresses(URL) == [
        Address(URL, 0), Address("http://mirror.example/farm1.staticflickr.com/5/a.jpg?x=1", 1)]


def test_a_table_gives_ids_and_the_md5_of_the_original(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images.csv", {URL: ("0a1b", b"original"), "http://other.example/b": ("0a1c", b"")})
    mirrors = Mirrors([Mirror("{url}", table=table), Mirror("https://s3.example/{subset}/{id}.jpg", table=table)],
                      tmp_path)
    md5 = hashlib.md5(b"original", usedforsecurity=False).hexdigest()
    assert mirrors.addresses(URL) == [Address(URL, 0, md5), Address("https://s3.example/train/0a1b.jpg", 1)]
    assert mirrors.addresses("http://other.example/b")[0] == Address("http://other.example/b", 0, "")
    assert mirrors.addresses("http://unknown.example/") == [Address("http://unknown.example/", 0)]


def test_the_first_of_two_table_rows_with_the_same_url_counts(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images.csv", {URL: ("0a1b", b"")})
    with Path(table).open("a") as file:
        file.write(f"0a1c,train,{URL},,\n")
    [found] = Mirrors([Mirror("https://s3.example/{id}.jpg", table=table)], tmp_path).addresses(URL)
    assert found.url == "https://s3.example/0a1b.jpg"


def test_a_changed_table_is_read_again(tmp_path: Path) -> None:
    rule = Mirror("https://s3.example/{id}.jpg", table=str(tmp_path / "images.csv"))
    for image in ("0a1b", "0a1c"):
        write_table(tmp_path / "images.csv", {URL: (image, b"")})
        assert Mirrors([rule], tmp_path).addresses(URL) == [Address(f"https://s3.example/{image}.jpg", 0)]


@pytest.mark.parametrize("url", ["http://[broken/a", "", "http://a.example/{id}", "http://a.example/%s\x00"])
def test_a_malformed_url_is_its_own_address(tmp_path: Path, url: str) -> None:
    assert Mirrors([Mirror("{url}")], tmp_path).addresses(url)[0].url == url


@pytest.mark.parametrize("template", ["{id}", "{url.__class__}", "{0}", "{url!r:>999999}", "{nothing}"])
def test_a_template_can_use_only_the_known_names(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        Mirror(template)


@pytest.mark.parametrize(("content", "said"), [
    ("a,b\n1,2\n", f"has the columns a, b; expected a table of images with {', '.join(COLUMNS)}"),
    ("", "has the columns ; expected"), (None, "cannot be read as a table of images"),
    (b"OriginalURL,ImageID,Subset,OriginalMD5\n\xff\xff", "cannot be read as a table of images")])
def test_an_invalid_table_is_an_error(tmp_path: Path, content: str | bytes | None, said: str) -> None:
    path = tmp_path / "images.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        Mirrors([Mirror("{url}", table=str(path))], tmp_path)


@pytest.mark.parametrize("table", ["missing.csv", "."])
def test_a_missing_table_is_an_error_before_anything_is_fetched(quick: Download, here: Machine, server: ScriptedServer,
                                                                lists_of: Lists, tmp_path: Path, table: str) -> None:
    params = dataclasses.replace(quick, mirrors=[Mirror("{url}", table=str(tmp_path / table))])
    with pytest.raises(UserError, match=f"{tmp_path / table} cannot be read as a table of images: .*download.mirrors"):
        download(params, here, lists=lists_of([URL], VAL), out=tmp_path / "images")
    assert server.log == []


@needs_unshare
@pytest.mark.parametrize("limit", ["size=100k", "nr_inodes=11"])
def test_a_disk_that_is_too_small_for_the_index_is_reported(quick: Download, here: Machine, lists_of: Lists,
                                                            tmp_path: Path, limit: str) -> None:
    table = write_table(tmp_path / "images.csv", {f"{HOST}/{number}.jpg": ("0a1b", b"") for number in range(10_000)})
    params = dataclasses.replace(quick, mirrors=[Mirror("{url}", table=table)])
    lists = lists_of([URL], VAL)
    (tmp_path / "scratch").rename(tmp_path / "lists_scratch")
    ended = on_small_disk(tmp_path / "scratch", limit, command(params, here, lists, tmp_path / "images"))
    assert_user_error(ended, ".sqlite", *DISK)
    assert not list(tmp_path.rglob("*.sqlite"))


def test_changed_originals_are_fetched_from_the_mirror(quick: Download, here: Machine, server: ScriptedServer,
                                                       lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    urls = [f"{HOST}/same.jpg", f"{HOST}/changed.jpg", f"{HOST}/lost.jpg", f"{HOST}/moved.jpg", f"{HOST}/replaced.jpg"]
    table = write_table(tmp_path / "images.csv", {url: (f"id{number}", jpeg) for number, url in enumerate(urls)})
    server.on("/same.jpg", body=jpeg)
    server.on("/changed.jpg", body=jpeg + b"x")
    server.on("/lost.jpg", body=jpeg + b"x")
    server.on("/moved.jpg", status=302, headers={"Location": "/same.jpg"})
    server.on("/replaced.jpg", status=302, headers={"Location": "/changed.jpg"})
    server.on("/bucket/train/id1.jpg", body=jpeg + b"resized")
    server.on("/val.jpg", body=jpeg)
    params = dataclasses.replace(quick, mirrors=[
        Mirror("{url}", table=table), Mirror(f"{HOST}/bucket/{{subset}}/{{id}}.jpg", table=table)])
    out = download(params, here, lists=lists_of(urls, VAL), out=tmp_path / "images")
    rows = rows_of(out, "train")
    assert [(row.reason, row.mirror) for row in rows] == [
        (Reason.OK, 0), (Reason.OK, 1), (Reason.GONE, 1), (Reason.OK, 0), (Reason.GONE, 1)]
    shutil.rmtree(here.scratch)
    only = dataclasses.replace(quick, mirrors=[Mirror("{url}", table=table)])
    out = download(only, here, lists=lists_of(urls, VAL), out=tmp_path / "originals")
    assert [row.reason for row in rows_of(out, "train")] == [Reason.OK, Reason.CHANGED, Reason.CHANGED, Reason.OK,
                                                             Reason.CHANGED]


def with_rotations(table: str, *rotations: str) -> None:
    """Add the column Rotation to a table."""
    lines = Path(table).read_text().splitlines()
    Path(table).write_text("\n".join(f"{line},{cell}" for line, cell
                                     in zip(lines, ("Rotation", *rotations), strict=True)))


@pytest.mark.parametrize(("rotation", "turn"), [("", 1), ("nan", 1), ("0.0", 1), ("90.0", 8), ("180", 3), ("270.0", 6)])
def test_a_tables_rotation_is_an_exif_orientation(tmp_path: Path, rotation: str, turn: int) -> None:
    table = write_table(tmp_path / "images.csv", {URL: ("0a1b", b"")})
    with_rotations(table, rotation)
    [found] = Mirrors([Mirror("https://s3.example/{id}.jpg", table=table)], tmp_path).addresses(URL)
    assert found == Address("https://s3.example/0a1b.jpg", 0, orientation=turn)


@pytest.mark.parametrize("rotation", ["45.0", "left", "-90"])
def test_a_rotation_other_than_quarter_turns_is_an_error(tmp_path: Path, rotation: str) -> None:
    table = write_table(tmp_path / "images.csv", {URL: ("0a1b", b"")})
    with_rotations(table, rotation)
    with pytest.raises(UserError, match=f"images.csv, line 2: Rotation is '{rotation}', expected 0, 90, 180, 270 or"):
        Mirrors([Mirror("{url}", table=table)], tmp_path)


@pytest.mark.parametrize("shorter_side", [None, 45])
def test_copies_get_the_orientation_of_the_table(quick: Download, here: Machine, server: ScriptedServer,
                                                 lists_of: Lists, tmp_path: Path, shorter_side: int | None) -> None:
    """Degrees are counterclockwise. The copy's own EXIF orientation takes precedence; a PNG becomes a JPEG."""
    upright, rotations = scene(), ["90.0", "180.0", "270.0", "90.0", "90.0", ""]
    lying = [upright.rotate(-float(degrees or 0), expand=True) for degrees in rotations]
    bodies = [encoded(image, quality=95) for image in lying]
    bodies[3], bodies[4] = encoded(lying[3], quality=95, exif=exif(8)), encoded(lying[4], "PNG")
    urls = [f"{HOST}/{number}.jpg" for number in range(len(bodies))]
    table = write_table(tmp_path / "images.csv", {url: (f"id{number}", b"") for number, url in enumerate(urls)})
    with_rotations(table, *rotations)
    for number, body in enumerate(bodies):
        server.on(f"/bucket/id{number}.jpg", body=body)
    server.on("/val.jpg", body=bodies[0])
    params = dataclasses.replace(quick, images_per_shard=10, shorter_side=shorter_side, mirrors=[
        Mirror("{url}", table=table), Mirror(f"{HOST}/bucket/{{id}}.jpg", table=table)])
    out = download(params, here, lists=lists_of(urls, VAL), out=tmp_path / "images")
    assert [(row.reason, row.mirror) for row in rows_of(out, "train")] == [(Reason.OK, 1)] * len(bodies)
    for member in read_shard(out / "train" / "00000.tar"):
        jpeg = to_jpeg(member.body, quality=95)
        expected = np.asarray(upright.resize((jpeg.width, jpeg.height))).astype(int)
        assert (jpeg.width, jpeg.height) == ((60, 45) if shorter_side else upright.size)
        assert np.abs(ImageFile(jpeg.body).pixels(1.0) - expected).mean() < 6
