"""The tests of hpcmarl."""
