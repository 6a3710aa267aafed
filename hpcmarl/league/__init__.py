"""Leagues of policies: what a league decides (core), runs (runtime) and shows (commands)."""
