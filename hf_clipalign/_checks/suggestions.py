"""The nearest valid name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from hf_clipalign._errors import ClipAlignError


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that is spelled most like `name`, None if no choice is close to it."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def unknown_name(kind: str, name: str, choices: Iterable[str], where: str = "") -> ClipAlignError:
    """The error for a name that is none of `choices`: the nearest one as a suggestion, then all of them."""
    choices = list(choices)
    close = nearest(name, choices)
    suggestion = f"did you mean {close!r}? " if close else ""
    return ClipAlignError(f"unknown {kind} {name!r}{where}: {suggestion}choose from {', '.join(choices)}.")
