"""Restoration job: songs in folders and buckets."""
