"""The wire: message kinds (`protocol`), the layout of rollouts in them (`layout`), who is who (`topology`), and transports.

`mpi` is imported only by those who join an MPI world, since importing it initialises MPI.
"""
