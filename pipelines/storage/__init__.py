"""Folders on disks and object stores, atomic writes, Parquet as plain values."""
