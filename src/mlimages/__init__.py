"""ML-Images in a notebook: acquire -> download -> convert -> train -> evaluate, each verb a package of that name.

Import it before TensorFlow: it sets environment variables that TensorFlow reads when it is imported.
"""

import os

from mlimages.core.tuning import switch_onednn_on

# TensorFlow's notices would drown a stage's own progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
switch_onednn_on(os.environ)
