"""Learner role: turn rollouts into gradients."""
