"""Literal implementations of the algorithms, agent by agent and step by step."""
