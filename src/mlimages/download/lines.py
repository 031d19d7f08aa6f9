"""List lines in progress: their shard, their addresses, and their tries so far."""

from typing import NamedTuple

from mlimages.acquire.formats import Part


class Shard(NamedTuple):
    """Consecutive list lines that become one shard: `lines` lines from line `first` (from 1).

    In the list they are `bytes` bytes at `offset`; both are 0 while that is not needed.
    """

    part: Part
    number: int
    first: int
    lines: int
    offset: int = 0
    bytes: int = 0

    @property
    def name(self) -> str:
        return f"{self.part}-{self.number:05d}"


class Address(NamedTuple):
    """A URL where a line's image may be. `mirror` is the index of its rule in download.mirrors; `md5` may be "".

    `orientation` is the EXIF orientation of an image that has none itself.
    """

    url: str
    mirror: int
    md5: str = ""
    orientation: int = 1


class PendingLine:
    """A line that is being fetched: the untried `addresses`, the next `url` (after redirects), tries and time left.

    `source` is the URL in the list, and `stamp` is as in spool.LineResult.
    `tries` counts the failed tries of the current address, `refusals` the responses that asked to come back later,
    `lost` the workers that died while fetching the line. `failed_at` is the time of the first failed try. `doubted`
    says that a possible network outage has already been taken into account.
    """

    __slots__ = ("address", "addresses", "doubted", "failed_at", "hops", "line", "lost", "number", "refusals",
                 "seconds_left", "sent_at", "shard", "source", "stamp", "tries", "url")

    def __init__(self, number: int, shard: Shard, line: int, source: str, addresses: list[Address],
                 seconds: float, stamp: str = "") -> None:
        self.number, self.shard, self.line, self.source, self.stamp = number, shard, line, source, stamp
        self.addresses = addresses
        self.seconds_left = seconds
        self.lost = 0
        self.sent_at = self.failed_at = 0.0
        self.doubted = False
        self.next_address(seconds)

    def next_address(self, seconds: float) -> None:
        """Switch to the next address and allow `seconds` for it."""
        self.address = self.addresses.pop(0)
        self.reset(seconds)

    def reset(self, seconds: float) -> None:
        """Reset the tries of the current address and allow `seconds` for it."""
        self.tries = self.refusals = 0
        self.seconds_left = seconds
        self.restart()

    def restart(self) -> None:
        """Start again at the address itself, before any redirects."""
        self.url, self.hops = self.address.url, 0
