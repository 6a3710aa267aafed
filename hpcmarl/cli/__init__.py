"""The commands of `hpcmarl`. Each command imports heavy modules only when it runs."""
