"""Export of runs for other programs: policies, trajectories and metrics."""
