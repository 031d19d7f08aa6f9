"""The stage convert: turn downloaded shards and ImageNet's archive into TFRecord shards, data/tfrecords."""
