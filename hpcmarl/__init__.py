"""hpcmarl trains multi-agent reinforcement-learning policies on one machine and on Slurm clusters over MPI.

Importing the package loads neither MPI nor torch. The commands are in `hpcmarl.cli.main`.
"""

__version__ = "0.1.0"
