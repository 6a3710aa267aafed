"""Games in numpy that step all slots together."""
