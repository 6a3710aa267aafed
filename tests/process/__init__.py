"""Tests that start other processes, but no MPI ranks."""
