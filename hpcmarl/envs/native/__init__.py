"""Games whose slots are stepped together in numpy."""
