"""Every picture that the notebooks show: one module for each verb. A function draws one figure from published files."""
