"""Track training and evaluation runs in MLflow."""
