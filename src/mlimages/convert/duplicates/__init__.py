"""Images that the data set has twice: the same files, and pictures that look alike."""
