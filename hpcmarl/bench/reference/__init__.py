"""Learning written as plain torch loops, to measure against."""
