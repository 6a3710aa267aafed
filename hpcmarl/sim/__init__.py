"""A cluster in virtual time that drives the same round rules and optimizers as real ranks do.

cluster.py holds the event queue and the workers; times.py and failures.py model their durations and failures.
objectives.py defines the maximised functions. experiment.py runs cases, seeds and tuning. plan.py and
continuing.py predict from the measured times of a run.
"""
