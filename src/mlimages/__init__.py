"""ML-Images in a notebook: acquire -> download -> convert -> train -> evaluate, each stage a package of that name.

Import it before TensorFlow: it sets environment variables that TensorFlow reads when it is imported.
"""

import logging
import os

from mlimages.core.tuning import enable_onednn

# TensorFlow's notices would hide a stage's progress. The variable does not affect TensorFlow's Python code, which also
# sets its logger's level by itself in a notebook.
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") not in ("0", "1"):
    logging.getLogger("tensorflow").addFilter(lambda record: record.levelno >= logging.WARNING)
enable_onednn(os.environ)
