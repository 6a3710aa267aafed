"""Benchmarks that run inside the MPI world they measure; `hpcmarl bench` starts them. Each returns a dict
with units in its keys."""
