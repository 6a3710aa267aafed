"""Whole runs on virtual ranks, in the process of the test."""
