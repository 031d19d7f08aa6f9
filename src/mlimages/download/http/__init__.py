"""One HTTP request: which addresses are allowed, how much is read, and what the answer is worth."""
