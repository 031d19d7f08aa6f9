"""train: the released network on the record shards, under a tf.distribute strategy, as data/model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlimages.train.run import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: `python -m mlimages.train.inputs` must not find itself imported already.
    if name == "train":
        from mlimages.train.run import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
