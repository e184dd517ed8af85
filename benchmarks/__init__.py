"""Benchmarks: `make bench` runs them. Not installed."""
