"""Transport over MPI. Importing a module of this package initialises MPI, with few exceptions."""
