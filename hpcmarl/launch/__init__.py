"""Launchers: start an MPI world, recognise the present one, and submit Slurm jobs.

These modules run before MPI and torch are loaded and import neither.
"""
