"""evaluate: what the trained network is worth on the validation records, as data/evaluation."""

from mlimages.evaluate.run import evaluate

__all__ = ["evaluate"]
