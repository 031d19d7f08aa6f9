"""The network, its weights, and `Classifier`, which classifies pictures with a trained network."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlimages.network.classifier import Classifier

__all__ = ["Classifier"]


def __getattr__(name: str) -> Any:
    # Imported on demand, since other modules of this package are used without TensorFlow.
    if name == "Classifier":
        from mlimages.network.classifier import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
