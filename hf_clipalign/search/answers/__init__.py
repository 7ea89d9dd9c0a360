"""What was found: hits, groups of duplicates, and how they are shown."""
