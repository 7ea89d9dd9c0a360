"""Towers without torch, for one query at a time."""
