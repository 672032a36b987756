"""Raft itself, sans I/O: messages and ticks in; what to persist, send and apply out."""
