"""Prompt learning, from labels or distilled from a bigger model (KDPL)."""
