"""evaluate: measure the trained network on the validation records, and publish data/evaluation.

`measure` computes the same metrics for any network on any data set.
"""
