"""JaxMARL's SMAX with all slots in one compiled step."""
