"""Starts, compares, monitors and ends workers that train together, each in its own process.

Only `environment` imports TensorFlow, which can block a process that waits for another worker.
"""
