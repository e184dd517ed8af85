"""Restore samples with a generator: whole, in chunks, or as a stream."""
