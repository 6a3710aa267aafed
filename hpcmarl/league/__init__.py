"""Leagues of policies: decisions (core), execution on ranks (runtime) and commands (commands)."""
