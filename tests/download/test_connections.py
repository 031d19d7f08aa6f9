"""Connections are kept, opened again where the host closed them, believed by their certificate, and led by a proxy."""

import socket
import ssl
import subprocess
import time
from pathlib import Path

from tests.conftest import ScriptedServer
from tests.download.conftest import MakeFetcher

from mlimages.download.ledger import Reason

URL = "http://images.example/a.jpg"


def test_an_idle_connection_that_the_host_closed_is_opened_again(fetcher: MakeFetcher, server: ScriptedServer,
                                                                 jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg, then_close=True)
    one = fetcher(attempts=1)
    assert [one.fetch(URL).reason for _ in range(3)] == [Reason.OK] * 3
    assert server.connections == 3


def test_a_host_whose_certificate_does_not_hold_is_not_believed(fetcher: MakeFetcher, server: ScriptedServer,
                                                                tmp_path: Path, jpeg: bytes) -> None:
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
                    "/CN=images.example", "-keyout", tmp_path / "key", "-out", tmp_path / "crt"],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.on("/a.jpg", body=jpeg)
    assert fetcher().fetch(URL.replace("http:", "https:"))[:3] == (Reason.TLS, 0, 1)
    assert server.log == []


def test_a_proxy_from_the_parameters_is_asked_for_the_whole_url(fetcher: MakeFetcher, server: ScriptedServer,
                                                                jpeg: bytes) -> None:
    server.on("http://far.example/a.jpg?b=1", body=jpeg)
    one = fetcher(proxies={"http": f"http://127.0.0.1:{server.server_port}"})
    assert one.fetch("http://far.example/a.jpg?b=1").reason is Reason.OK
    assert one.fetch("http://0x7f000001/a.jpg").reason is Reason.FORBIDDEN_ADDRESS
    assert server.log == [("far.example", "http://far.example/a.jpg?b=1")]


def test_a_host_that_takes_no_connection_is_left_after_the_timeout(fetcher: MakeFetcher) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]  # where so many wait, the kernel answers nobody else
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        begun = time.monotonic()
        made = fetcher(attempts=1, timeout_seconds=0.3, also={"full.example:80": f"127.0.0.1:{full.getsockname()[1]}"})
        assert made.fetch("http://full.example/a.jpg") == (Reason.TIMEOUT, 0, 1, None)
        assert time.monotonic() - begun < 60, "Linux itself gives up after two minutes"
        for one in waiting:
            one.close()
