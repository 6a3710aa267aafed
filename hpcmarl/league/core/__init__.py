"""Decisions of a league, independent of ranks and files."""
