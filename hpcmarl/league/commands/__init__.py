"""Implementation of `hpcmarl league`: matches, tournaments, exploiters, transfer of snapshots."""
