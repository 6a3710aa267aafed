"""Learning in plain torch loops, as a reference for `hpcmarl bench learning`."""
