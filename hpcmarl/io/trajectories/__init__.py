"""Trajectory shards: writing, reading, merging and salvage."""
