"""A training: the step, the loss, the optimizer, the loop, its checkpoints and its log."""
