"""The learner: turns rollouts into gradients."""
