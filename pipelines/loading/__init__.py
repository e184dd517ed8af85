"""Training examples: from shards, or mixed while training."""
