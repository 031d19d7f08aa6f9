"""The plots and tables of the notebooks, a module for each stage. A function draws one figure from published files."""
