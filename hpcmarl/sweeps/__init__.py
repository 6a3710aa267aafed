"""Sweeps: trials of one configuration with other values for some keys, here or as a job array.

All state is in files of the sweep's directory, so trials need no server and no parent process:

    sweep.yaml  base.yaml      the sweep and the configuration that it varies
    trials/0001.yaml           configuration of a trial; 0001.json: its values
    trials/0001.progress.json  its values at the comparisons of pruning
    trial-0001/                its run directory
    sweep.csv                  one row for each trial
"""
