"""Benchmarks of `hpcmarl bench`.

Each benchmark returns a dict or a list of dicts with units in the keys. Most benchmarks of several ranks run
inside the MPI world that they measure.
"""
