"""Aligned towers in forms that other libraries load."""
