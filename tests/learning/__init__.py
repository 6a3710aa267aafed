"""Runs that must learn something."""
