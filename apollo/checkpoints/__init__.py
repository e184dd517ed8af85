"""Save and load checkpoints: checkpoint folders, published files, the Hugging Face hub."""
