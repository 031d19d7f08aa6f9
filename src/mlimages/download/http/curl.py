"""Import pycurl so that it works in a process that has loaded TensorFlow.

TensorFlow exports the symbols of its own, older libcurl and of BoringSSL to every library loaded after it. pycurl
would bind to those and refuse to load.
"""

import os
import sys

_flags = sys.getdlopenflags()
sys.setdlopenflags(_flags | os.RTLD_DEEPBIND)  # pycurl's own libraries take precedence
try:
    import pycurl
finally:
    sys.setdlopenflags(_flags)

__all__ = ["pycurl"]
