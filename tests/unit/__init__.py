"""Fast tests of single rooms: no ranks, no cluster."""
