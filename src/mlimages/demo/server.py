"""The demo's image hosts: an HTTP server on the loopback address that draws pictures on request, some with faults.

The fault of a picture depends on its id only, so every run gets the same faults. The lists name several hosts;
`serving` maps them to the server's port.
"""

import hashlib
import io
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image, ImageDraw

from mlimages.demo import world

# Each is a registrable domain, so that a host that asks to slow down does not delay the others.
HOSTS = tuple(f"photos.host{number}.example" for number in range(1, 17))
PATH = re.compile(r"/(\d{2,4})/(n9\d{7}_\d+)\.jpg")
PLACEHOLDER = "/photo_unavailable.png"
# The faults, with their number in 1,000 pictures.
FAULTS = (("missing", 15), ("placeholder", 10), ("page", 8), ("short", 8), ("corrupt", 6), ("busy", 3),
          ("unavailable", 3), ("slow", 6))
SLOW_SECONDS = 0.5


def url_of(image_id: str, pixels: int) -> str:
    """The URL of a picture. It is the same on every run and every machine."""
    host = HOSTS[_number(f"host/{image_id}") % len(HOSTS)]
    return f"http://{host}/{pixels}/{image_id}.jpg"


def fault_of(image_id: str) -> str | None:
    """The fault of a picture, one of FAULTS, or None."""
    number = _number(f"fault/{image_id}") % 1000
    for fault, share in FAULTS:
        if number < share:
            return fault
        number -= share
    return None


@contextmanager
def serving(address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Run the server in a thread at an IP address. Yields the `machine.connect_to` that maps the hosts to it."""
    server = _Server((address, 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, name="demo-server", daemon=True)
    thread.start()
    try:
        yield {f"{host}:80": f"{address}:{server.server_port}" for host in HOSTS}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.refused_once: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        if self.path == PLACEHOLDER:
            self._answer(200, "image/png", _placeholder())
            return
        match = PATH.fullmatch(self.path)
        if not match:
            self._answer(404, "text/plain", b"no such picture\n")
            return
        pixels, image_id = int(match[1]), match[2]
        fault = fault_of(image_id)
        if fault in ("busy", "unavailable") and image_id not in self.server.refused_once:
            self.server.refused_once.add(image_id)
            self._answer(429 if fault == "busy" else 503, "text/plain", b"later\n", {"Retry-After": "1"})
        elif fault == "missing":
            self._answer(404, "text/html", b"<html>gone</html>\n")
        elif fault == "placeholder":
            self._answer(302, "text/plain", b"", {"Location": PLACEHOLDER})
        elif fault == "page":
            self._answer(200, "image/jpeg", b"<!DOCTYPE html><html><body>Sign in to see this photo</body></html>\n")
        else:
            self._serve_picture(image_id, pixels, fault)

    def _serve_picture(self, image_id: str, pixels: int, fault: str | None) -> None:
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        jpeg = world.draw(image_id, pixels)
        if fault == "corrupt":
            jpeg = jpeg[: len(jpeg) // 2]
        self._answer(200, "image/jpeg", jpeg, cut=fault == "short")

    def _answer(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None,
                cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 3] if cut else body)
        self.wfile.flush()
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the ledger of the download has the result of each request."""


def _placeholder() -> bytes:
    """The demo's "photo unavailable" picture."""
    image = Image.new("RGB", (96, 96), (240, 240, 240))
    ImageDraw.Draw(image).text((8, 40), "photo\nunavailable", (120, 120, 120))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
