"""Modules that several tests import: environments, worlds, launchers and fixtures."""
