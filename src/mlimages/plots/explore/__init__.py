"""The widgets and plots of the notebooks explore_*.ipynb, which only read data/."""
