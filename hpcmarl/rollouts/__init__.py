"""Rollouts in messages: memory layout, reading, and assembly of whole episodes."""
