"""Readers of the published formats: one for each, shared by all data sets that come in it."""
