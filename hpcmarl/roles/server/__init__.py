"""Server role: collect gradients, step the optimizer, record and checkpoint."""
