"""download: every URL of the lists, fetched politely and safely into shards and ledgers, as data/images."""

from mlimages.download.run import download

__all__ = ["download"]
