"""The commands of `hpcmarl`, one file a group. What is heavy is imported by the command that needs it."""
