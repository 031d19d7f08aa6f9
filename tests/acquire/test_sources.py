"""The tiny and the full release are fetched once and checked; an error proposes a folder of files instead.

The addresses of the release are constants of `mlimages.acquire.sources`; the tests set them to a loopback server.
"""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlimages.acquire import fetch_files, sources
from mlimages.acquire.formats import DICTIONARY, LISTS, read_list
from mlimages.acquire.run import acquire
from mlimages.acquire.sources import TINY, ReleasedList
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import verify

if TYPE_CHECKING:
    from tests.conftest import ScriptedServer

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN_IDS, TRAIN_URLS, VAL_IDS, VAL_URLS = (name for *_, name in LISTS)
LINES = {TRAIN_IDS: 4, TRAIN_URLS: 6, VAL_IDS: 2, VAL_URLS: 3}
QUOTA_PAGE = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


def _content(name: str, lines: int) -> bytes:
    rows = [f"n00000003/n00000003_{number}.JPEG" if "imagenet" in name else f"http://images.example/{number}.jpg"
            for number in range(lines)]
    return "".join(f"{row}\t2:0.9\t1:1\n" for row in rows).encode()


@pytest.fixture
def released(server: "ScriptedServer", release: Path, monkeypatch: pytest.MonkeyPatch) -> "ScriptedServer":
    """The loopback server with a small release: the dictionary of five classes, the tiny list, and the four lists."""
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(sources, "RELEASE", f"{base}/data/")
    monkeypatch.setattr(sources, "DRIVE", f"{base}/drive/")
    monkeypatch.setattr(sources, "RELEASED_LISTS", {name: ReleasedList(name, lines) for name, lines in LINES.items()})
    monkeypatch.setattr(sources, "RELEASED_CLASSES", 5)
    monkeypatch.setattr(sources, "RELEASED_ROOTS", 1)
    monkeypatch.setattr(sources, "TINY_LINES", 12)
    monkeypatch.setattr(fetch_files, "ATTEMPTS", 0)
    server.on(f"/data/{DICTIONARY}", body=(release / DICTIONARY).read_bytes())
    server.on(f"/data/{TINY}", body=_content(TINY, 12))
    return server


@pytest.fixture
def full(from_release: Acquire) -> Acquire:
    return dataclasses.replace(from_release, source="full")


@pytest.fixture
def tiny(from_release: Acquire) -> Acquire:
    return dataclasses.replace(from_release, source="tiny")


def _serve(server: "ScriptedServer", **other: dict[str, Any]) -> None:
    """Serve the four lists, or what `other` says of one."""
    for name, lines in LINES.items():
        server.on(f"/drive/{name}", **other.get(name, {"body": _content(name, lines)}))


def _kept(machine: Machine, source: str) -> list[str]:
    return sorted(os.listdir(Path(machine.scratch) / "acquire" / source))


def test_the_tiny_list_is_split_into_training_and_validation(released: "ScriptedServer", tiny: Acquire,
                                                             machine: Machine, tmp_path: Path) -> None:
    out = acquire(tiny, machine, out=tmp_path / "lists")
    manifest = verify(out, "acquire")
    assert {name: manifest["files"][name]["records"] for name in LINES} == {
        TRAIN_IDS: 0, TRAIN_URLS: 10, VAL_IDS: 0, VAL_URLS: 2}
    sources_of = {name: [entry.source for entry in read_list(out / name, "openimages", 5)]
                  for name in (TRAIN_URLS, VAL_URLS)}
    assert sources_of[VAL_URLS] == ["http://images.example/4.jpg", "http://images.example/9.jpg"]
    assert sources_of[TRAIN_URLS] == [f"http://images.example/{number}.jpg" for number in range(12)
                                      if number not in (4, 9)]
    assert manifest["source"] == "tiny"
    assert manifest["raw"][TINY] == {"sha256": hashlib.sha256(_content(TINY, 12)).hexdigest(), "lines": 12,
                                     "bytes": len(_content(TINY, 12))}


def test_the_full_release_is_fetched_once_and_its_files_are_in_the_manifest(
        released: "ScriptedServer", full: Acquire, machine: Machine, tmp_path: Path) -> None:
    _serve(released)
    manifest = verify(acquire(full, machine, out=tmp_path / "lists"), "acquire")
    assert {name: manifest["files"][name]["records"] for name in LINES} == LINES
    assert {name: manifest["raw"][name]["sha256"] for name in LINES} == {
        name: hashlib.sha256(_content(name, lines)).hexdigest() for name, lines in LINES.items()}
    # Of each list first the address, then the file.
    once = {f"/data/{DICTIONARY}": 1, **{f"/drive/{name}": 2 for name in LINES}}
    assert released.requests == once
    acquire(dataclasses.replace(full, limit=1), machine, out=tmp_path / "again")
    assert released.requests == once
    assert _kept(machine, "full") == sorted([DICTIONARY, *LINES])


def test_only_failed_files_are_fetched_again(released: "ScriptedServer", full: Acquire, machine: Machine,
                                                       tmp_path: Path) -> None:
    _serve(released, **{TRAIN_URLS: {"status": 503}})
    released.on(f"/drive/{TRAIN_URLS}", body=_content(TRAIN_URLS, 6))
    with pytest.raises(UserError, match=rf"{TRAIN_URLS}.* cannot be fetched: .*503.*acquire\.source: folder and acq"):
        acquire(full, machine, out=tmp_path / "lists")
    assert not (tmp_path / "lists").exists()
    acquire(full, machine, out=tmp_path / "lists")
    assert released.requests == {f"/data/{DICTIONARY}": 1, **{f"/drive/{name}": 2 for name in LINES},
                                 f"/drive/{TRAIN_URLS}": 1 + 2}


def test_a_truncated_list_is_not_accepted_and_its_download_resumes(
        released: "ScriptedServer", full: Acquire, machine: Machine, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    content = _content(TRAIN_URLS, 6).replace(b".jpg", b".jpg?" + 60_000 * b"x") * 5
    monkeypatch.setitem(sources.RELEASED_LISTS, TRAIN_URLS, ReleasedList(TRAIN_URLS, 30))
    kept = 2**20  # gdown writes half of that at a time
    _serve(released, **{TRAIN_URLS: {"body": content, "cut": kept + 1000}})
    released.on(f"/drive/{TRAIN_URLS}", body=content, cut=kept + 1000)
    rest = {"status": 206, "headers": {"Content-Range": f"bytes {kept}-{len(content) - 1}/{len(content)}"}}
    released.on(f"/drive/{TRAIN_URLS}", body=content)
    released.on(f"/drive/{TRAIN_URLS}", body=content)
    released.on(f"/drive/{TRAIN_URLS}", body=content[kept:], **rest)
    with pytest.raises(UserError, match=rf"{TRAIN_URLS}.* cannot be fetched: .*\.{TRAIN_URLS}\.download\*"):
        acquire(full, machine, out=tmp_path / "lists")
    assert TRAIN_URLS not in _kept(machine, "full")
    out = acquire(full, machine, out=tmp_path / "lists")
    assert verify(out, "acquire")["raw"][TRAIN_URLS]["sha256"] == hashlib.sha256(content).hexdigest()
    assert released.requests[f"/drive/{TRAIN_URLS}"] == 2 + 3  # the last one was for the rest


def test_a_last_line_without_a_line_end_is_counted(tmp_path: Path) -> None:
    for content, lines in ((b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n", 1)):
        (tmp_path / "list").write_bytes(content)
        assert sources.scan(tmp_path / "list") == (hashlib.sha256(content).hexdigest(), len(content), lines)


@pytest.mark.parametrize("lines", [5, 7])
def test_a_list_of_another_length_is_rejected_with_its_hash(released: "ScriptedServer", full: Acquire, machine: Machine,
                                                           tmp_path: Path, lines: int) -> None:
    content = _content(TRAIN_URLS, lines)
    _serve(released, **{TRAIN_URLS: {"body": content}})
    named = rf"{TRAIN_URLS}: expected 6 lines, found {lines} .* sha256 {hashlib.sha256(content).hexdigest()}"
    with pytest.raises(UserError, match=named):
        acquire(full, machine, out=tmp_path / "lists")
    assert [name for name in _kept(machine, "full") if TRAIN_URLS in name] == []


def test_a_tiny_list_of_another_length_is_rejected(released: "ScriptedServer", tiny: Acquire, machine: Machine,
                                                  tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TINY_LINES", 100)
    with pytest.raises(UserError, match=f"{TINY}: expected 100 lines, found 12 "):
        acquire(tiny, machine, out=tmp_path / "lists")
    assert _kept(machine, "tiny") == [DICTIONARY]


def test_a_dictionary_that_is_not_the_released_one_is_rejected(
        released: "ScriptedServer", tiny: Acquire, machine: Machine, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RELEASED_ROOTS", 4)
    with pytest.raises(UserError, match="expected 5 classes and 4 roots, found 5 and 1"):
        acquire(tiny, machine, out=tmp_path / "lists")


def test_a_web_page_of_another_host_is_an_error(released: "ScriptedServer", full: Acquire, machine: Machine,
                                            tmp_path: Path) -> None:
    _serve(released, **{VAL_URLS: {"body": QUOTA_PAGE}})
    with pytest.raises(UserError, match=r"is a web page, not a list: it begins with .*Quota exceeded"):
        acquire(full, machine, out=tmp_path / "lists")
    assert [name for name in _kept(machine, "full") if VAL_URLS in name] == []


def test_a_list_without_end_is_cut_off(released: "ScriptedServer", full: Acquire, machine: Machine, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_files, "MAX_BYTES", 10**6)
    _serve(released, **{TRAIN_IDS: {"endless": True}})
    with pytest.raises(UserError, match="sent more than 1,000,000 bytes"):
        acquire(full, machine, out=tmp_path / "lists")
    released.on("/data/endless", endless=True)
    with pytest.raises(UserError, match="sent more than 1,000,000 bytes"):
        fetch_files.fetch(sources.RELEASE + "endless", tmp_path / "endless", lambda path: None)
    assert not list(tmp_path.glob("*endless*"))


def test_a_host_that_does_not_answer_is_an_error(tiny: Acquire, machine: Machine, tmp_path: Path,
                                                 server: "ScriptedServer",
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RELEASE", f"http://127.0.0.1:{server.server_port}/data/")
    server.on(f"/data/{DICTIONARY}", hang=True)
    monkeypatch.setattr(fetch_files, "TIMEOUT", (0.2, 0.2))
    with pytest.raises(UserError, match=rf"{DICTIONARY} cannot be fetched: .*timed out.*acquire\.source: folder"):
        acquire(tiny, machine, out=tmp_path / "lists")


KILLED = """
import dataclasses, sys
from mlimages.acquire import sources
from mlimages.acquire.run import acquire
from mlimages.acquire.sources import ReleasedList
from mlimages.core.params import load

port, scratch, out = sys.argv[1:]
sources.RELEASE, sources.DRIVE = f"http://127.0.0.1:{port}/data/", f"http://127.0.0.1:{port}/drive/"
sources.RELEASED_LISTS = {name: ReleasedList(name, lines) for name, lines in %r.items()}
sources.RELEASED_CLASSES, sources.RELEASED_ROOTS = 5, 1
params = load()
acquire(dataclasses.replace(params.acquire, source="full"), dataclasses.replace(params.machine, scratch=scratch),
        out=out)
"""


def test_after_a_kill_only_missing_files_are_fetched(
        released: "ScriptedServer", full: Acquire, machine: Machine, tmp_path: Path) -> None:
    content = _content(TRAIN_URLS, 6)
    _serve(released, **{TRAIN_URLS: {"body": content, "drip_seconds": 0.01}})
    released.on(f"/drive/{TRAIN_URLS}", body=content)
    process = subprocess.Popen([sys.executable, "-c", KILLED % LINES, str(released.server_port), machine.scratch,
                                str(tmp_path / "lists")], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "src"})
    released.wait_until(lambda: released.requests[f"/drive/{TRAIN_URLS}"] == 1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert TRAIN_URLS not in _kept(machine, "full")
    before = dict(released.requests)
    out = acquire(full, machine, out=tmp_path / "lists")
    assert verify(out, "acquire")["raw"][TRAIN_URLS]["sha256"] == hashlib.sha256(content).hexdigest()
    fetched = {path for path, count in released.requests.items() if count != before.get(path)}
    done = [path for path in before if path != f"/drive/{TRAIN_URLS}"]
    assert done and fetched.isdisjoint(done)
    straight = acquire(full, dataclasses.replace(machine, scratch=str(tmp_path / "other")), out=tmp_path / "straight")
    assert verify(straight, "acquire") == verify(out, "acquire")
