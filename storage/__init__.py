"""One write-ahead log for all groups of a host, and the snapshots beside it."""
