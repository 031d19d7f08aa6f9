"""evaluate: what the trained network is worth on the validation records, as data/evaluation.

`measure` gives the same figures of any network on any data set.
"""

from mlimages.evaluate.network import measure
from mlimages.evaluate.run import evaluate

__all__ = ["evaluate", "measure"]
