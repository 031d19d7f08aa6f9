"""ML-Images in a notebook: acquire -> download -> convert -> train -> evaluate, each verb a package of that name."""

import os

# TensorFlow reads it at import; its notices would drown a stage's own progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
