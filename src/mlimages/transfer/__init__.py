"""transfer: fine-tune a trained network on a set of labelled pictures, as data/transfer."""
