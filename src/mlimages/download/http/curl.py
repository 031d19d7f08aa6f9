"""libcurl, beside TensorFlow.

TensorFlow brings an older libcurl and BoringSSL, and offers their symbols to every library that is loaded after it.
pycurl would call those instead of its own, and refuses to load.
"""

import os
import sys

_flags = sys.getdlopenflags()
sys.setdlopenflags(_flags | os.RTLD_DEEPBIND)  # the symbols of pycurl's own libraries go before all others
try:
    import pycurl
finally:
    sys.setdlopenflags(_flags)

__all__ = ["pycurl"]
