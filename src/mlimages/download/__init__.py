"""The stage download: fetches every URL of the lists into tar shards and ledgers."""

from mlimages.download.run import download

__all__ = ["download"]
