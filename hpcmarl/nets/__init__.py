"""Networks over one flat parameter vector: policies, critics, and the distributions of their actions."""
