"""The stage convert: turn downloaded shards and ImageNet's archive into TFRecord shards, data/tfrecords."""

from mlimages.convert.run import convert

__all__ = ["convert"]
