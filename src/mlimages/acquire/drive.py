"""Find the address of a file on Google Drive, which may send pages before the file or in place of it."""

from itertools import islice
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import requests
from bs4 import BeautifulSoup, Tag
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

MAX_PAGES = 5
# More than any of Drive's pages has; what follows is not read.
MAX_PAGE_BYTES = 2**20
CHUNK_BYTES = 2**16
PASSING_FAULTS = (500, 502, 503, 504)
SIGN_IN, CONSENT = "accounts.google.com", "consent.google.com"
ERROR_CAPTIONS = ".uc-error-caption, .uc-error-subcaption"
SHOWN_CHARACTERS = 160
PUBLISHER = "see at https://github.com/Tencent/tencent-ml-images where the list is published now"
LATER = "run the same command again later"
OPEN_IT = "open the address in a browser to see what it asks"


class NoFile(Exception):
    """Google Drive sent no file. `found` describes what it sent, and `advice` what the user can do."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.found, self.advice = found, advice


def file_url(url: str, timeout: tuple[float, float], retries: int) -> str:
    """The address of the file itself, after the pages on which Drive asks for a confirmation.

    A failed request is repeated `retries` times. Raises NoFile if Drive sends something else or more than MAX_PAGES
    pages, and requests.RequestException if it does not answer.
    """
    retry = Retry(retries, backoff_factor=1, status_forcelist=PASSING_FAULTS, raise_on_status=False,
                  respect_retry_after_header=False)
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        for _ in range(MAX_PAGES):
            with session.get(url, stream=True, timeout=timeout) as response:
                _check_status(response.status_code)
                head = next(response.iter_content(CHUNK_BYTES), b"")
                if not head:
                    raise NoFile("an empty answer", LATER)
                if _is_file(response):
                    return response.url
                rest = islice(response.iter_content(CHUNK_BYTES), MAX_PAGE_BYTES // CHUNK_BYTES)
                url = _next_url(response.url, b"".join([head, *rest]))
        raise NoFile(f"{MAX_PAGES} pages in a row that ask whether to go on without a virus scan", LATER)


def _is_file(response: requests.Response) -> bool:
    return "Content-Disposition" in response.headers or "html" not in response.headers.get("Content-Type", "html")


def _check_status(status: int) -> None:
    """Raise NoFile for a status of 400 or above."""
    if status < 400:
        return
    found = f"the status {status}"
    if status in (404, 410):
        raise NoFile(f"{found}: there is no such file", PUBLISHER)
    if status in (401, 403):
        raise NoFile(f"{found}: the file is not shared with everyone, or Google refuses this network", PUBLISHER)
    if status == 429:
        raise NoFile(f"{found}: too many requests from this network", LATER)
    if status >= 500:
        raise NoFile(f"{found}: a fault on Google's side", LATER)
    raise NoFile(found, PUBLISHER)


def _next_url(url: str, page: bytes) -> str:
    """The address of the form on Drive's page. Raises NoFile for a page without that form."""
    soup = BeautifulSoup(page, "html.parser")
    title = " ".join(soup.title.get_text().split())[:SHOWN_CHARACTERS] if soup.title else ""
    host = urlsplit(url).hostname
    form = soup.select_one("form#download-form")
    if form is not None:
        return _target(url, form)
    if host == SIGN_IN or soup.select_one(f'form[action*="{SIGN_IN}"], input[type="password"]'):
        raise NoFile("a page to sign in: the file is not shared with everyone", PUBLISHER)
    if host == CONSENT or soup.select_one(f'form[action*="{CONSENT}"]'):
        raise NoFile("a page that asks for consent to cookies", "give it in a browser")
    captions = " ".join(text for one in soup.select(ERROR_CAPTIONS) for text in one.get_text().split())
    if "quota" in title.lower() or captions:
        raise NoFile(f"a page that its download quota is used up for now ({(captions or title)[:SHOWN_CHARACTERS]!r})",
                     LATER)
    raise NoFile(f"a page without a download form, with the title {title!r}", OPEN_IT)


def _target(url: str, form: Tag) -> str:
    """The address to which a form of the method GET leads."""
    action = form.get("action")
    if not action:
        raise NoFile("a page whose download form has no address", OPEN_IT)
    parts = urlsplit(urljoin(url, str(action)))
    fields = dict(parse_qsl(parts.query))
    fields.update((str(one["name"]), str(one.get("value", ""))) for one in form.select('input[type="hidden"][name]'))
    return parts._replace(query=urlencode(fields)).geturl()
