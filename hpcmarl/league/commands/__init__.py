"""The work behind `hpcmarl league`: matches, tournaments, exploiters."""
