"""The road on Ray: data sets to shards, and whatever runs on a cluster around the model in `apollo`."""
