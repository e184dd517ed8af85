"""Estimate cores, hours, disk and cost of a run."""
