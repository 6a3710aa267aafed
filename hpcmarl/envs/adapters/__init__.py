"""Adapters that drive one slot of a PettingZoo or Gymnasium environment."""
