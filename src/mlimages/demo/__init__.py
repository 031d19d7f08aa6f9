"""A miniature ML-Images: drawn pictures, their lists and ImageNet archive, and a server for them.

The stages acquire and download treat it like the real data.
"""
