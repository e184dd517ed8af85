"""What every job needs to run: lock, fingerprint, result.json, progress, metrics."""
