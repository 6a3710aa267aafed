"""A rank of a run: its start, its loop, signs of life, replacements."""
