"""Restore samples with a generator: in chunks (`restoration`) or as a stream (`streaming`)."""
