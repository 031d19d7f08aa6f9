"""Connections are kept, opened again where the host closed them, believed by their certificate, and led by a proxy."""

import ssl
import subprocess
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
