"""Audio files: decode, read, write, and restore songs. Packages other than torch are imported when needed."""
