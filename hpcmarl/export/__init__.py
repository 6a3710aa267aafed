"""Export of runs for other tools: parameters and policies."""
