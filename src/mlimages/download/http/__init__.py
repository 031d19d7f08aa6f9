"""One HTTP request: the allowed addresses, the limits on what is read, and the check of the response."""
