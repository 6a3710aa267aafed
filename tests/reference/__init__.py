"""Independent implementations that follow the equations literally, agent by agent and step by step."""
