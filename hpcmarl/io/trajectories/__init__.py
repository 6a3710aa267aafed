"""Trajectory shards: write, read, merge, salvage."""
