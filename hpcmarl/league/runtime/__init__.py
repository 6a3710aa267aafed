"""A league on ranks: its server, its clients, teams and matches."""
