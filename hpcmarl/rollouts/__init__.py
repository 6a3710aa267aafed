"""How the steps of a rollout lie in a message."""
