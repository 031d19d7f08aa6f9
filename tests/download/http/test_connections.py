"""Connections: keep-alive, certificates and proxies."""

import contextlib
import gc
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY, ScriptedServer
from tests.download.conftest import MakeFetcher
from tests.faults import run

from mlimages.download.http import transport
from mlimages.download.ledger import Reason

URL = "http://images.example/a.jpg"


def test_an_idle_connection_closed_by_the_host_is_opened_again(fetcher: MakeFetcher, server: ScriptedServer,
                                                               jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg, then_close=True)
    one = fetcher(attempts=1)
    assert [one.fetch(URL).reason for _ in range(3)] == [Reason.OK] * 3
    assert server.connections == 3


def speak_tls(server: ScriptedServer, folder: Path) -> None:
    """Make the server speak TLS with a self-signed certificate."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
                    "/CN=images.example", "-keyout", folder / "key", "-out", folder / "crt"],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)


@pytest.mark.parametrize("verify", [True, False])
def test_an_invalid_certificate_is_accepted_only_without_verification(fetcher: MakeFetcher, server: ScriptedServer,
                                                                      tmp_path: Path, jpeg: bytes,
                                                                      verify: bool) -> None:
    speak_tls(server, tmp_path)
    server.on("/a.jpg", body=jpeg)
    found = fetcher(verify=verify).fetch(URL.replace("http:", "https:"))
    assert found[:3] == ((Reason.TLS, 0, 1) if verify else (Reason.OK, 200, 1))
    assert len(server.log) == (0 if verify else 1)


AFTER_TENSORFLOW = """
import dataclasses, sys
import tensorflow
from mlimages.download.http.transport import Network, Transport
from mlimages.core.params import load
params = dataclasses.replace(load(sys.argv[1]).download, verify=False)
answer = Transport(params, Network({"images.example:443": sys.argv[2]}, {})).fetch(sys.argv[3], ("a", 0), 60.0)
sys.stdout.buffer.write(answer.body)
"""


def test_pycurl_works_after_tensorflow_is_imported(server: ScriptedServer, tmp_path: Path) -> None:
    speak_tls(server, tmp_path)
    server.on("/a.jpg", body=b"came")
    ended = run([sys.executable, "-c", AFTER_TENSORFLOW, str(REPOSITORY / "params.yaml"),
                 f"127.0.0.1:{server.server_port}", URL.replace("http:", "https:")])
    assert (ended.returncode, ended.stdout) == (0, "came"), ended.stderr


@pytest.mark.parametrize("reset", [True, False])
def test_a_connection_that_breaks_in_the_handshake_is_no_tls_error(fetcher: MakeFetcher, reset: bool) -> None:
    """The network may be the cause, so the line must be tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def breaking() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = listening.accept()
                    taken.recv(1)
                    if reset:
                        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    else:
                        taken.recv(65_536)
                    taken.close()

        threading.Thread(target=breaking, daemon=True).start()
        one = fetcher(attempts=1, also={"images.example:443": f"127.0.0.1:{listening.getsockname()[1]}"})
        assert one.fetch(URL.replace("http:", "https:"))[:3] == (Reason.CONNECT, 0, 1)
        listening.shutdown(socket.SHUT_RDWR)


def test_a_host_without_tls_is_a_tls_error_and_not_unreachable(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    assert fetcher(attempts=1).fetch(URL.replace("http:", "https:"))[:3] == (Reason.TLS, 0, 1)


def test_a_slot_has_one_connection_and_few_idle_ones_stay_open(fetcher: MakeFetcher, server: ScriptedServer,
                                                               jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_IDLE", 3)
    server.on("/a.jpg", body=jpeg)
    names = [f"{number}.example" for number in range(12)]
    one = fetcher(also=server.connect_to(*names))
    assert {found.reason for found in one.fetch_all([f"http://{name}/a.jpg" for name in names * 2])} == {Reason.OK}
    assert len(one.pool._exchange._transport._idle) == 3


def test_an_idle_connection_keeps_no_body_in_memory(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    names = [f"{number}.example" for number in range(10)]
    server.on("/a.jpg", body=bytes(2_000_000))
    server.on("/b.jpg", endless=True)
    one = fetcher(also=server.connect_to(*names), max_bytes=3_000_000)
    tracemalloc.start()
    one.fetch_all([f"http://{name}/{path}.jpg" for name in names for path in "ab"])
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2_000_000


def test_a_proxy_that_refuses_a_tunnel_is_a_connection_error(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refusing() -> None:
            taken, _ = listening.accept()
            taken.recv(65_536)
            taken.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            taken.close()

        threading.Thread(target=refusing, daemon=True).start()
        one = fetcher(attempts=1, proxies={"https": f"http://127.0.0.1:{listening.getsockname()[1]}"})
        assert one.fetch("https://far.example/a.jpg")[:3] == (Reason.CONNECT, 0, 1)


def test_a_proxy_gets_the_complete_url(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("http://far.example/a.jpg?b=1", body=jpeg)
    one = fetcher(proxies={"http": f"http://127.0.0.1:{server.server_port}"})
    assert one.fetch("http://far.example/a.jpg?b=1").reason is Reason.OK
    assert one.fetch("http://0x7f000001/a.jpg").reason is Reason.FORBIDDEN_ADDRESS
    assert server.log == [("far.example", "http://far.example/a.jpg?b=1")]


def test_a_host_that_accepts_no_connection_times_out(fetcher: MakeFetcher) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]  # fills the queue, so the kernel answers no other
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        begun = time.monotonic()
        made = fetcher(attempts=1, timeout_seconds=0.3, also={"full.example:80": f"127.0.0.1:{full.getsockname()[1]}"})
        assert made.fetch("http://full.example/a.jpg") == (Reason.TIMEOUT, 0, 1, None)
        assert time.monotonic() - begun < 60, "Linux itself gives up after two minutes"
        for one in waiting:
            one.close()
