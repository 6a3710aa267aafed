"""Kill running jobs on purpose and check what survives."""
