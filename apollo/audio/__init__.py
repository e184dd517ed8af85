"""Audio files: decode, read, write, and restore songs. Imports more than torch, when called."""
