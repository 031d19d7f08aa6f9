"""The network: its layers, its weights, and `Classifier`, which puts a trained network to use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlimages.network.classifier import Classifier

__all__ = ["Classifier"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: modules beside it are used where TensorFlow must not be loaded.
    if name == "Classifier":
        from mlimages.network.classifier import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
