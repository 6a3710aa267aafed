"""The server: collects gradients, steps the optimizer, records and checkpoints."""
