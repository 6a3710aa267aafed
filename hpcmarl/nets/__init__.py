"""Networks on one flat parameter vector: policies, critics and action distributions."""
