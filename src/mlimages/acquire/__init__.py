"""Acquire: check and count the four lists and the class dictionary, and publish them as data/lists."""
