"""Timeline of all ranks (`logging.trace`): spans of what each rank does, and clocks that agree."""
