"""Files of a run: trajectories, checkpoints, metrics and the run directory.

Only this package uses h5py. Import its modules directly, for instance
`from hpcmarl.io.trajectories.writer import TrajectoryWriter`. docs/files.md describes every file.
"""
