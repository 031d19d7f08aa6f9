"""convert: downloaded shards and ImageNet's archive to TFRecord shards, as data/tfrecords."""

from mlimages.convert.run import convert

__all__ = ["convert"]
