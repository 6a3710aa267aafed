"""Transport over MPI. Importing any module of this package initialises MPI."""
