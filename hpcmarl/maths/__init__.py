"""Pure functions on arrays: targets, ratings, meta-strategies, sparse layers and round times."""
