"""hpcmarl trains multi-agent reinforcement-learning policies on Slurm clusters and on one machine, with MPI
as its wire.

Importing the package loads nothing heavy: neither MPI nor torch. The commands are in `hpcmarl.cli.main`.
"""

__version__ = "0.1.0"
