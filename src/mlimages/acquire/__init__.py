"""acquire: the four lists and the class dictionary, checked, counted and published as data/lists."""

from mlimages.acquire.run import acquire

__all__ = ["acquire"]
