"""Workers that train together, each in a process of its own: how they are started, compared, watched and ended.

Except for `environment`, it does not import TensorFlow, which can block a process that waits for another worker.
"""
