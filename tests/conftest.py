"""Fixtures that the tests share: parameters, a machine section, lists, and a scripted web server."""

import dataclasses
import io
import os
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlimages.acquire.formats import DICTIONARY, LISTS, PARTS
from mlimages.acquire.run import acquire
from mlimages.core.params import Acquire, Machine, Params, load

pytest_plugins = ["tests.evaluate.fixtures", "tests.pipeline", "tests.training.fixtures"]

# nohup and background jobs of a shell ignore Ctrl-C, and the processes that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]
# Longer than any wait of a test that passes.
PATIENCE_SECONDS = 240.0
ENDLESS_BYTES = 64 * 2**20
# They start first and in this order, so that no process works alone on one of them at the end. test_browser.py and
# test_docs.py need the copy of the repository that test_pipeline.py makes.
LONGEST = ("test_pipeline.py", "test_resume.py", "test_train.py", "test_step.py", "test_transfer.py",
           "test_checkpoints.py", "test_docs.py", "test_browser.py",
           # Those of `make cluster`. A process takes its next file when two tests of the one before are left, which for
           # the first three is long before its end: so short files follow.
           "test_cluster.py", "test_slurm.py", "test_environment.py", "test_ray_engine.py", "test_local_sgd.py",
           "test_early_stopping.py", "test_ray.py", "test_ray_training.py")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their number: what gzip writes holds the time, and all test workers must see the same names."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the server does with one request. The default is status 200 with the body and its true length.

    `cut`: send this many bytes of the announced body, then close, with `reset` by a TCP reset. `drip_seconds`: pause
    after each byte. `endless`: send bytes of no announced length until the client closes. `hang`: never answer. `drop`:
    close without an answer. `raw`: send these bytes as the whole answer, one by one with `raw_drip_seconds`.
    `then_close`: close the connection after an answer that promised to keep it open. `until`: answer when the event is
    set. `barrier`: answer when the barrier opens.
    """

    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    reset: bool = False
    drip_seconds: float = 0.0
    endless: bool = False
    hang: bool = False
    drop: bool = False
    raw: bytes | None = None
    raw_drip_seconds: float = 0.0
    then_close: bool = False
    until: threading.Event | None = None
    barrier: threading.Barrier | None = None


class ScriptedServer(ThreadingHTTPServer):
    """A real HTTP/1.1 server on the loopback interface. It answers each path by a script and counts requests.

    `requests` counts requests by path, and `log` holds (host, path) in order of arrival. `most_requests` and
    `most_connections` are the greatest numbers at the same time, by host, and `most_requests_of_all` over all hosts.
    `headers` holds those of all requests, and `connections` counts all connections. `finished` counts answers by path,
    and `broken_off` those that the client did not read to the end.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.closing = threading.Event()
        self.requests: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []
        self.finished: Counter[str] = Counter()
        self.broken_off: Counter[str] = Counter()
        self.most_requests: Counter[str] = Counter()
        self.most_connections: Counter[str] = Counter()
        self.headers: list[Mapping[str, str]] = []
        self.connections = 0
        self.changed = threading.Condition()
        self.most_requests_of_all = 0
        self._now: dict[str, Counter[str]] = {"requests": Counter(), "connections": Counter()}
        self._scripts: dict[str, list[Reply]] = {}

    def on(self, path: str, **reply: Any) -> None:
        """Add a reply to the script of `path`. The n-th request gets the n-th reply, later requests the last one."""
        self._scripts.setdefault(path, []).append(Reply(**reply))

    def connect_to(self, *hosts: str) -> dict[str, str]:
        """The value of `machine.connect_to` that directs these hosts to this server."""
        return {f"{host}:{port}": f"127.0.0.1:{self.server_port}" for host in hosts for port in (80, 443)}

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds. It is evaluated whenever a count changes."""
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_SECONDS), "what the test waited for did not come"

    @contextmanager
    def counted(self, kind: str, most: Counter[str], host: str) -> Iterator[None]:
        with self.changed:
            now = self._now[kind]
            now[host] += 1
            most[host] = max(most[host], now[host])
            self.most_requests_of_all = max(self.most_requests_of_all, self._now["requests"].total())
        try:
            yield
        finally:
            with self.changed:
                now[host] -= 1

    def reply_to(self, host: str, path: str) -> Reply:
        with self.changed:
            self.log.append((host, path))
            self.requests[path] += 1
            self.changed.notify_all()
            script = self._scripts.get(path, [Reply(404)])
            return script[min(self.requests[path], len(script)) - 1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: in many tests the client closes in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ScriptedServer
    counting: Any = None

    def do_GET(self) -> None:
        host = self.headers["Host"]
        if self.counting is None:
            self.counting = self.server.counted("connections", self.server.most_connections, host)
            self.counting.__enter__()
            self.server.connections += 1
        self.server.headers.append(dict(self.headers))
        with ExitStack() as request:
            request.enter_context(self.server.counted("requests", self.server.most_requests, host))
            try:
                self._play(self.server.reply_to(host, self.path), request.close)
            except OSError:
                self.close_connection = True
                self.server.broken_off[self.path] += 1
        with self.server.changed:
            self.server.finished[self.path] += 1
            self.server.changed.notify_all()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            if self.counting is not None:
                self.counting.__exit__(None, None, None)

    def _play(self, reply: Reply, end: Callable[[], None]) -> None:
        """Send a reply. `end` is called before the last byte: from then on the client may send another request."""
        self.close_connection = (reply.hang or reply.drop or reply.endless or reply.then_close or bool(reply.raw)
                                 or reply.cut is not None)
        if event := reply.until or reply.barrier:
            event.wait(PATIENCE_SECONDS)
        if reply.hang:
            self.server.closing.wait()
        if reply.raw is not None:
            self._send(reply.raw, reply.raw_drip_seconds, end)
        if reply.hang or reply.drop or reply.raw is not None:
            return
        self.send_response(reply.status)
        length = {} if reply.endless else {"Content-Length": str(len(reply.body))}
        for name, value in {"Content-Type": "image/jpeg", **length, **reply.headers}.items():
            self.send_header(name, value)
        if not (reply.drip_seconds or reply.endless):
            end()
        self.end_headers()
        if reply.endless:
            self.wfile.writelines([bytes(65_536)] * (ENDLESS_BYTES // 65_536))
        else:
            self._send(reply.body[: reply.cut], reply.drip_seconds, end)
        if reply.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def _send(self, content: bytes, seconds: float, end: Callable[[], None]) -> None:
        pieces = [bytes([one]) for one in content] if seconds else [content]
        for number, piece in enumerate(pieces, start=1):
            if number == len(pieces):
                end()
            self.wfile.write(piece)
            if self.server.closing.wait(seconds):
                break

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: `ScriptedServer.log` holds the requests."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        thread = threading.Thread(target=scripted.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield scripted
        scripted.closing.set()
        scripted.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def params() -> Params:
    """The repository's own params.yaml."""
    return load(REPOSITORY / "params.yaml")


@pytest.fixture
def machine(params: Params, tmp_path: Path) -> Machine:
    """The repository's machine section, with one worker, and the scratch folder inside the test's folder."""
    return dataclasses.replace(params.machine, scratch=str(tmp_path / "scratch"), workers=1, threads=8)


@pytest.fixture
def tiny_params(params: Params) -> Params:
    """The repository's parameters with a demo of 60 training and 20 validation images of 32 pixels."""
    demo = dataclasses.replace(params.acquire.demo, train_images=60, val_images=20, pixels=32)
    return dataclasses.replace(params, acquire=dataclasses.replace(params.acquire, source="demo", demo=demo),
                               download=dataclasses.replace(params.download, images_per_shard=12))


@pytest.fixture
def tiny_lists(tiny_params: Params, machine: Machine, tmp_path: Path) -> Path:
    """The lists that acquire publishes of that demo."""
    return acquire(tiny_params.acquire, machine, out=tmp_path / "lists")


@pytest.fixture
def jpeg() -> bytes:
    """A small JPEG."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((48, 40)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder with the four lists of one valid line each, and a dictionary of five classes."""
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / DICTIONARY).write_text("category_index\tcategory_id\tindex_of_parent_category\tcategory name\n"
                                     "0\tn00000001\t-1\tthing\n1\tn00000002\t0\tanimal, beast\n2\tn00000003\t1\tcat\n"
                                     "3\tn00000004\t1\tdog, hound\n4\tn00000005\t0\tplant\n")
    for part, origin, name in LISTS:
        one = 1 + PARTS.index(part)
        source = f"http://images.example/{part}.jpg" if origin == "openimages" else f"n00000003/n00000003_{one}.JPEG"
        (folder / name).write_text(f"{source}\t2:0.9\t1:0.8\n")
    return folder


@pytest.fixture
def from_release(params: Params, release: Path) -> Acquire:
    """The parameters of acquire for that folder."""
    return dataclasses.replace(params.acquire, source="folder", folder=str(release))


@pytest.fixture
def lists_of(release: Path, from_release: Acquire, machine: Machine,
             tmp_path: Path) -> Callable[[Sequence[str], Sequence[str]], Path]:
    """Acquire lists of these training and validation URLs."""

    def make(train: Sequence[str], val: Sequence[str]) -> Path:
        for urls, name in ((train, LISTS[1].name), (val, LISTS[3].name)):
            (release / name).write_text("".join(f"{url}\t2:0.9\t1:0.8\n" for url in urls))
        return acquire(from_release, machine, out=tmp_path / "lists")

    return make
