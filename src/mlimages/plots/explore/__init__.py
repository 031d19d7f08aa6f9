"""Widgets and plots of the notebooks explore_*.ipynb, which read data/ and publish nothing."""
