"""What the full data set costs, and how its training scales: a model, and its pictures."""
