"""Values of the user's inside error messages: on one line, printable, and short, whatever they hold."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import accumulate, islice
from typing import Any

_MOST_CHARACTERS = 120
_MOST_NAMES = 20
_LONGEST_LIST = 2 * _MOST_CHARACTERS


def short(value: Any, limit: int = _MOST_CHARACTERS) -> str:
    """A value as Python writes it, cut in the middle if it is long.

    Args:
        value: anything; of a long text or list only the two ends are written.
        limit (`int`, *optional*, defaults to 120): the most characters.

    Returns:
        `str`: one printable line.

    Example:
        ```python
        >>> short("a" * 1000, limit=16)
        "'aaaaaa…aaaaaa'"
        ```
    """
    if type(value) in (str, bytes) and len(value) > 2 * limit:
        value = value[:limit] + value[-limit:]
    return _cut(printable(_written(value)), limit)


def _written(value: Any) -> str:
    """As Python writes it, unless it refuses to: integers of thousands of digits, lists within themselves."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to be written"


def quoted(names: Iterable[Any], most: int = _MOST_NAMES) -> str:
    """Names as a list for an error message: `'a', 'b'`, each cut where it is long, and only the first ones of many.

    Args:
        names (`Iterable`): what is to be listed.
        most (`int`, *optional*, defaults to 20): how many names are written; fewer where they take more than 240
            characters together.

    Returns:
        `str`: one printable line; "none" for an empty list.

    Example:
        ```python
        >>> quoted(["cat", "dog", "owl"], most=2)
        "'cat', 'dog' and more"
        ```
    """
    given = [short(name) for name in islice(names, most + 1)]
    lengths = accumulate(len(name) + len(", ") for name in given)
    fitting = sum(length <= _LONGEST_LIST + len(", ") for length in lengths)
    shown = given[: min(most, max(1, fitting))]
    return ", ".join(shown) + (" and more" if len(shown) < len(given) else "") or "none"


def counted(n: int, noun: str) -> str:
    """A number with its noun, as in `1 image` and `2,000 images`.

    Args:
        n (`int`): how many.
        noun (`str`): in the singular; in the plural it gets an s, or as in queries and classes.

    Returns:
        `str`: both.

    Example:
        ```python
        >>> counted(1, "image"), counted(2000, "image"), counted(2, "query")
        ('1 image', '2,000 images', '2 queries')
        ```
    """
    ends_in_y = noun.endswith("y") and noun[-2:-1] not in "aeiou"
    plural = f"{noun[:-1]}ies" if ends_in_y else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}"


def short_reason(error: BaseException, limit: int = 2 * _MOST_CHARACTERS) -> str:
    """First line of an error's message, else its type, to quote in an error of our own."""
    return _cut(printable((str(error).strip() or type(error).__name__).splitlines()[0]), limit)


def printable(text: str) -> str:
    """A text on one line that every terminal and file can hold: control characters and broken bytes are escaped.

    Args:
        text (`str`): a path or a message; bytes of a file name that are no UTF-8 are written as `\\xe9`.

    Returns:
        `str`: the same text, if there is nothing to escape.

    Example:
        ```python
        >>> print(printable("caf\\udce9\\n.jpg"))
        caf\\xe9\\n.jpg
        ```
    """
    text = readable_name(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def readable_name(name: str) -> str:
    """A file name as valid Unicode: bytes that are no UTF-8 become `\\xe9` and the like, and can be distinguished."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace") if _is_file_name(name) else _escaped(name)
    return name


def _is_file_name(name: str) -> bool:
    """Whether all that is broken in it are bytes of a file name (and not other halves of surrogate pairs)."""
    return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in name)


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _cut(text: str, limit: int) -> str:
    """Both ends of a text of more than `limit` characters, the quotation marks with them."""
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"
