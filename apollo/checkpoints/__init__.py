"""Save and load checkpoints: our own folders, published files, the Hugging Face hub."""
