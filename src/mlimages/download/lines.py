"""A list line on its way: which addresses it may be fetched from, and what has been tried."""

from typing import NamedTuple

from mlimages.acquire.formats import Part


class Shard(NamedTuple):
    """A run of list lines that becomes one shard: `lines` from `first` on (from 1), at byte `offset` of the list."""

    part: Part
    number: int
    first: int
    lines: int
    offset: int

    @property
    def name(self) -> str:
        return f"{self.part}-{self.number:05d}"


class Address(NamedTuple):
    """Where a line's image may lie; `mirror` is the place of its rule in download.mirrors, `md5` may be "".

    `turn` is the EXIF orientation of an image there that has none of its own.
    """

    url: str
    mirror: int
    md5: str = ""
    turn: int = 1


class Line:
    """One line: `addresses` not yet tried, the `url` to ask next (after redirects), tries and seconds left.

    `tries` counts those of the address at hand that count against it, `refusals` those to which the host said
    "later", `lost` the workers that died with it; `failed_at` is when the first of the tries failed, `doubted` whether
    the network may have been away in them once.
    """

    __slots__ = ("address", "addresses", "doubted", "failed_at", "hops", "line", "lost", "number", "refusals",
                 "seconds_left", "sent_at", "shard", "tries", "url")

    def __init__(self, number: int, shard: Shard, line: int, addresses: list[Address], seconds: float) -> None:
        self.number, self.shard, self.line = number, shard, line
        self.addresses = addresses
        self.seconds_left = seconds
        self.lost = 0
        self.sent_at = self.failed_at = 0.0
        self.doubted = False
        self.next_address(seconds)

    def next_address(self, seconds: float) -> None:
        """Turn to the next address, with so many seconds for it."""
        self.address = self.addresses.pop(0)
        self.reset(seconds)

    def reset(self, seconds: float) -> None:
        """Forget all tries of the address. It has `seconds` from now on."""
        self.tries = self.refusals = 0
        self.seconds_left = seconds
        self.restart()

    def restart(self) -> None:
        """Ask the address itself again, whatever redirects it led to."""
        self.url, self.hops = self.address.url, 0
