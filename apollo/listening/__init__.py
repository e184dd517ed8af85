"""Compare versions of a song by ear and eye: loudness, spectrograms, excerpts, the player of all pages."""
