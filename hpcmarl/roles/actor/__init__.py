"""Actor role: step environments and send rollouts."""
