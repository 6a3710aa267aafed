"""Sums among learners: MPI, Horovod and torch.distributed."""
