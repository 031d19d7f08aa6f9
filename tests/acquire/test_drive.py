"""Google Drive may send pages before a file or in place of it. Each gets its own error, and none an endless loop."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from mlimages.acquire import drive, fetch_files
from mlimages.core.errors import UserError
from mlimages.core.params import Machine

if TYPE_CHECKING:
    from tests.conftest import ScriptedServer

URL = "https://drive.google.com/uc?id=1-list"
PATH = "/uc?id=1-list"
HTML = {"Content-Type": "text/html; charset=utf-8"}
QUOTA_PAGE = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""
SIGN_IN_PAGE = (b'<html><head><title>Google Drive: Sign-in</title></head><body><form method="post" '
                b'action="https://accounts.google.com/v3/signin"><input type="email"></form></body></html>')
CONSENT_PAGE = (b'<html><head><title>Before you continue</title></head><body><form method="post" '
                b'action="https://consent.google.com/save"></form></body></html>')


@pytest.fixture
def google(server: "ScriptedServer", monkeypatch: pytest.MonkeyPatch) -> "ScriptedServer":
    """Google Drive's hosts lead to the server."""
    get = requests.Session.get

    def get_here(self: requests.Session, url: str, **options: Any) -> requests.Response:
        here = re.sub(r"https://drive(\.usercontent)?\.google\.com", f"http://127.0.0.1:{server.server_port}", url)
        return get(self, here, **options)

    monkeypatch.setattr(requests.Session, "get", get_here)
    monkeypatch.setattr(fetch_files, "ATTEMPTS", 0)
    return server


def _fetch(machine: Machine, folder: Path) -> bytes:
    fetch_files.fetch_from_drive(URL, folder / "list.txt", lambda path: None, machine)
    return (folder / "list.txt").read_bytes()


def test_the_question_whether_to_go_on_without_a_virus_scan_is_answered(
        google: "ScriptedServer", machine: Machine, tmp_path: Path) -> None:
    form = (b'<form id="download-form"\n action="https://drive.usercontent.google.com/download?id=1-list" method="get">'
            b'<input type="submit" value="Download anyway"><input type="hidden" name="confirm" value="t"></form>')
    google.on(PATH, body=form, headers=HTML)
    google.on("/download?id=1-list&confirm=t", body=b"the list", headers={
        "Content-Disposition": 'attachment; filename="list.txt"', "Content-Type": "text/plain"})
    assert _fetch(machine, tmp_path) == b"the list"


def test_the_question_is_not_answered_for_ever(google: "ScriptedServer", machine: Machine, tmp_path: Path) -> None:
    google.on(PATH, body=f'<form id="download-form" action="{PATH}"></form>'.encode(), headers=HTML)
    with pytest.raises(UserError, match=f"{drive.MAX_PAGES} pages in a row that ask whether to go on"):
        _fetch(machine, tmp_path)
    assert google.requests[PATH] == drive.MAX_PAGES


@pytest.mark.parametrize(("answer", "words"), [
    ({"body": QUOTA_PAGE}, "a page that its download quota is used up for now (\"Sorry, you can't view or download"),
    ({"body": b"<title>Google Drive - Quota exceeded</title>"}, "quota is used up for now ('Google Drive - Quota exc"),
    ({"status": 404, "body": b"<html><title>Not Found</title></html>"}, "404: there is no such file; see at http"),
    ({"status": 410}, "status 410: there is no such file"),
    ({"status": 403, "body": QUOTA_PAGE}, "status 403: the file is not shared"),
    ({"status": 429}, "status 429: too many requests"),
    ({"status": 500, "body": b"<html>Error 500</html>"}, "status 500: a fault on Google's side; run the same command"),
    ({"status": 503}, "status 503: a fault on Google's side"),
    ({"status": 451}, "the status 451"),
    ({"body": SIGN_IN_PAGE}, "a page to sign in: the file is not shared"),
    ({"body": b'<html><form><input type="password"></form></html>'}, "a page to sign in"),
    ({"body": CONSENT_PAGE}, "a page that asks for consent to cookies; give it in a browser"),
    ({"body": b""}, "an empty answer"),
    ({"body": b"", "headers": {"Content-Disposition": "attachment"}}, "an empty answer"),
    ({"body": b"<html><title>Google  Drive</title></html>"}, "without a download form, with the title 'Google Drive'"),
    ({"body": b"<html></html>"}, "without a download form, with the title ''"),
    ({"body": b'<form id="download-form"><input type="hidden" name="id" value="x"></form>'}, "form has no address"),
    ({"drop": True}, "Connection aborted"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_comes_instead_of_a_file_is_named(google: "ScriptedServer", machine: Machine, tmp_path: Path,
                                               answer: dict[str, Any], words: str) -> None:
    google.on(PATH, **{**answer, "headers": {**HTML, **answer.get("headers", {})}})
    with pytest.raises(UserError, match=re.escape(words)) as raised:
        _fetch(machine, tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{URL} (list.txt) cannot be fetched: ") and "acquire.source: folder" in message
    assert ("quota" in message) == ("quota" in words)
    assert google.requests[PATH] == 1
    assert not list(tmp_path.glob("*list*"))


def test_no_more_of_a_page_is_read_than_a_page_has(google: "ScriptedServer", machine: Machine, tmp_path: Path) -> None:
    google.on(PATH, endless=True, headers=HTML)
    with pytest.raises(UserError, match="without a download form"):
        _fetch(machine, tmp_path)
    google.wait_until(lambda: google.finished[PATH] == 1)
    assert google.broken_off[PATH] == 1


def test_a_fault_that_passes_is_waited_for(google: "ScriptedServer", machine: Machine, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_files, "ATTEMPTS", 1)
    google.on(PATH, status=500)
    google.on(PATH, body=b"the list", headers={"Content-Disposition": 'attachment; filename="list.txt"'})
    assert _fetch(machine, tmp_path) == b"the list"
