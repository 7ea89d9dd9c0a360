"""Reading and writing files: atomic, locked, within limits, and without secrets."""
