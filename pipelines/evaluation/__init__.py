"""Evaluation job: score models at every bitrate on Ray Tune, report, promote."""
