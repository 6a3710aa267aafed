"""The transport over MPI. Importing most of it initialises MPI."""
