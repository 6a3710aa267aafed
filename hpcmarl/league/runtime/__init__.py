"""Execution of a league on ranks: the league's server, its clients, teams and matches."""
