"""Backoff between tries, and the limit of refusals."""

from tests.conftest import ScriptedServer
from tests.download.conftest import SHARD, MakeFetcher

from mlimages.core.params import Params
from mlimages.download.http.exchange import FetchResult
from mlimages.download.ledger import Reason
from mlimages.download.lines import Address, PendingLine
from mlimages.download.schedule.hosts import Domain
from mlimages.download.schedule.retry_policy import BACKOFF_SECONDS, MAX_REFUSALS, Action, decide

URL = "http://images.example/a.jpg"


def test_the_backoff_doubles_with_jitter(params: Params) -> None:
    host = Domain("images.example", 8, 100.0, 1).host("images.example")
    waits = []
    for number in range(20):
        line = PendingLine(number, SHARD, number, URL, [Address(URL, 0)], 60.0)
        cut = FetchResult(number, Reason.TRUNCATED, 200, 0.1)
        verdicts = [decide(line, host, cut, params.download, 0.0)
                    for _ in range(params.download.attempts)]
        assert [one.action for one in verdicts] == [Action.BACK_OFF] * (len(verdicts) - 1) + [Action.FAIL]
        for nth, one in enumerate(verdicts[:-1], start=1):
            assert 0.5 <= one.seconds / (BACKOFF_SECONDS * 2**nth) <= 1
        waits.append([one.seconds for one in verdicts[:-1]])
    assert all(len(set(column)) == len(waits) for column in zip(*waits, strict=True))


def test_a_line_that_is_refused_for_ever_fails(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", status=429, headers={"Retry-After": "0"})
    outcome = fetcher(rate_per_host=100_000.0).fetch(URL)
    assert outcome == (Reason.HTTP_ERROR, 429, MAX_REFUSALS, None)
