"""Files: trajectories, checkpoints, metrics and the run directory that holds them. The only package that
imports h5py.

Knows environments and rollouts by `types` alone; no torch, no network. Import the modules you need from here,
for instance `from hpcmarl.io.trajectories.writer import TrajectoryWriter`; docs/files.md describes every
file.
"""
