"""JaxMARL's SMAX, all slots in one compiled step."""
