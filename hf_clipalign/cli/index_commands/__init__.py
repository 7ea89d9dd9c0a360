"""The commands of a folder index: make it, ask it, look after it."""
