"""A model of the costs of the full data set and of the scaling of its training, with plots."""
