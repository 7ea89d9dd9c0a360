"""One module for each command, and what the commands that score have in common."""
