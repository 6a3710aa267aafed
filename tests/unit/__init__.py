"""Tests of single rooms: no process, no run."""
