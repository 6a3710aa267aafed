"""One slot of a PettingZoo or Gymnasium environment."""
