"""Statistics, tables and figures of an evaluation's scores."""
