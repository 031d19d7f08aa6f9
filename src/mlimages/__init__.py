"""ML-Images in a notebook: acquire -> download -> convert -> train -> evaluate, each stage a package of that name.

Import it before TensorFlow: it sets environment variables that TensorFlow reads when it is imported.
"""

import logging
import os
import sys
from pathlib import Path

from mlimages.core.noise import filter_stderr
from mlimages.core.tuning import enable_onednn

# What `sys.argv[0]` is while Python imports this package for a command `python -m mlimages...`, and in a kernel.
FILTERED = ("-m", "ipykernel_launcher.py")
# TensorFlow's notices would hide a stage's progress. The variable does not affect TensorFlow's Python code, which also
# sets its logger's level by itself in a notebook.
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") not in ("0", "1"):
    logging.getLogger("tensorflow").addFilter(lambda record: record.levelno >= logging.WARNING)
enable_onednn(os.environ)
if Path(sys.argv[0]).name in FILTERED:
    filter_stderr()
