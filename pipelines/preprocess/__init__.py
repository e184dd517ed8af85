"""Preprocess job: data sets to training shards."""
