"""The data set on disk: plan, shards, splits, and the order in which they are read."""
