"""Decides when each URL is requested: hosts, politeness, retries and network outages."""
