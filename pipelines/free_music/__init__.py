"""Freely licensed music from Debian's packages; data/free_music.py is its command line."""
