"""Which URL is asked for when: hosts, politeness, retries and lost networks."""
