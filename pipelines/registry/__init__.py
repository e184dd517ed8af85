"""Versions of the model in the MLflow registry, and checkpoints by name or URI."""
