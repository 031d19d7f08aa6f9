"""The network: its layers, its checkpoints and the weights that it can start from."""
