"""The service: the application of `apollo web` with replicas that restore, on Ray Serve."""
