"""Workers that train together, each a process of its own: what starts them, lets them agree, watches and ends them.

None of it imports TensorFlow, which holds a process fast where another worker does not come.
"""
