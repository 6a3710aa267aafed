"""The sections of a report. Each module has functions that return a section, or None if there is nothing."""
