"""Tests of single modules, without processes and without runs."""
