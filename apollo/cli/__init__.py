"""The parts of the `apollo` command."""
