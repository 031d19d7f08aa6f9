"""Acquire: check and count the four lists and the class dictionary, and publish them as data/lists."""

from mlimages.acquire.run import acquire

__all__ = ["acquire"]
