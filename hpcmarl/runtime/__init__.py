"""Rank of a run: its start, its main loop, heartbeats, log files, and replacement of dead actors."""
