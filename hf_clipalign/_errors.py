"""The error that a user can do something about."""

from __future__ import annotations


class ClipAlignError(ValueError):
    """Bad input: the message names the culprit and the way out. The command line prints it without a traceback."""
