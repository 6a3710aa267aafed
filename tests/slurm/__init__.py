"""Real jobs on a throw-away Slurm cluster (tools/slurm-cluster)."""
