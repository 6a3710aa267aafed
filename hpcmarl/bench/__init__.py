"""Benchmarks that run inside the MPI world that they measure (`hpcmarl bench`).

Each benchmark returns a dict or a list of dicts with units in the keys.
"""
