"""The actor: steps environments and sends rollouts."""
