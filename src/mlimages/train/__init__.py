"""train: the released network on the record shards, under a tf.distribute strategy, as data/model."""
