"""Small helpers that the readers share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def short_reason(error: Exception) -> str:
    """First line of an error's message, else its type, to quote in an error of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def quoted(names: Iterable[Any]) -> str:
    """Names as a list for an error message: `'a', 'b'`."""
    return ", ".join(map(repr, names)) or "none"


def first_column(columns: Iterable[Any], usual: tuple[str, ...]) -> str | None:
    """The column whose name comes first in `usual`, in any case."""
    lower = {str(column).lower(): column for column in reversed(list(columns))}
    return next((lower[name] for name in usual if name in lower), None)
