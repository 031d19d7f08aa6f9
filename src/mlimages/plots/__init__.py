"""Every plot and table of the notebooks: a module for each stage. A function shows one figure of published files."""
