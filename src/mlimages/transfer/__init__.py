"""transfer: fine-tune a trained network on a set of labelled pictures, as data/transfer."""

from mlimages.transfer.run import transfer

__all__ = ["transfer"]
