"""The miniature ML-Images: a world that is drawn, lists and an archive of it, and the hosts that serve it.

acquire publishes its lists, download talks to its hosts; to both it is what the real thing is.
"""
