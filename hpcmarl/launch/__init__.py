"""Starting an MPI world and recognising the one we are in. Imports neither MPI nor torch: it runs before
both."""
