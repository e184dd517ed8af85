"""The demo: all jobs in a row on a small data set."""
