"""The stage download: fetches every URL of the lists into tar shards and ledgers."""
