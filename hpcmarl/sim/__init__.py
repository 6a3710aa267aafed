"""A cluster in virtual time that drives the same round rules and optimizers as real ranks do.

cluster.py: the event queue and the workers; times.py, failures.py: how long they take and when they stop;
objectives.py: what is maximised; experiment.py: cases, seeds and tuning; plan.py, continuing.py: predictions
from a run's own times. Knows no rank, transport, file or plot.
"""
