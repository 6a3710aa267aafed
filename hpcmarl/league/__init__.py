"""What a league decides: who meets whom, which snapshots are compared next, and what came of it.

Called by the league's server (roles/) and by what shows a league; knows no file, rank, network or environment. Adding a matchmaker, a
kind of member or an evaluation strategy: a class, a section in config/league.py and a line here.
"""
