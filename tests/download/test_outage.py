"""What counts as a sign of a network, and where it is knocked for one."""

import threading

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, NOBODY, MakeFetcher

from mlimages.download import outage
from mlimages.errors import UserError

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_a_host_for_which_nothing_waits_is_not_kept_in_mind(fetcher: MakeFetcher, server: ScriptedServer,
                                                            jpeg: bytes) -> None:
    released = threading.Event()
    server.on("/held.jpg", body=jpeg, until=released)
    dead = [f"{number}.example" for number in range(20)]
    one = fetcher(also={f"{name}:80": NOBODY for name in dead}, outage_seconds=0.3)
    server.on("/0.jpg", body=jpeg)
    for _ in one.run([*(f"http://{name}/{number}.jpg" for name in dead for number in range(5)), f"{HOST}/0.jpg",
                      "http://other.example/held.jpg"]):
        if len(one.entries) == 101 and not one.scheduler._suspended:
            released.set()
    assert len(one.entries) == 102


@pytest.mark.parametrize("silent", [NOBODY, "nowhere.invalid:80"])
def test_that_connections_are_refused_and_names_unknown_is_no_sign_of_a_network(fetcher: MakeFetcher,
                                                                                silent: str) -> None:
    names = [f"{number}.example" for number in range(20)]
    one = fetcher(also={f"{name}:80": silent for name in names}, outage_seconds=0.5)
    with pytest.raises(UserError, match="no host has answered for .* the network seems to be away"):
        one.fetch_all([f"http://{name}/{number}.jpg" for name in names for number in range(4)])
    assert one.entries == {}


def test_what_must_not_be_asked_for_is_no_sign_of_a_network(fetcher: MakeFetcher) -> None:
    one = fetcher(also={"dead.example:80": NOBODY}, outage_seconds=0.5)
    urls = ["http://dead.example/a.jpg", *["file:///etc/passwd", "http://127.0.0.1/a.jpg"] * 100]
    with pytest.raises(UserError, match="no host has answered"):
        one.fetch_all(urls)
    assert 0 not in one.entries


def test_it_knocks_at_another_host_where_the_last_one_is_gone(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    one = outage.Outage(10.0)
    for number, name in enumerate("abcda"):
        one.answered(name, f"http://{name}", 100.0 + number)
    knocked = []
    for now in range(200, 212, 4):
        knocked.append(one.knock(float(now), suspended=True))
        one.knocked(False, now - 4.0)
    assert knocked == ["http://c", "http://d", "http://a"]


def test_knocks_do_not_come_while_others_answer(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    quiet = outage.Outage(10.0)
    quiet.answered("images.example", HOST, 100.0)
    assert quiet.knock(100.1, suspended=True) is None
    assert quiet.knock(101.0, suspended=False) is None
    assert quiet.knock(101.0, suspended=True) == HOST
    assert quiet.knock(101.1, suspended=True) is None, "it knocked twice at once"
