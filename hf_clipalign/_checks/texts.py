"""Lists of texts on input: read by position, each entry a text, and a single string never taken for its letters."""

from __future__ import annotations

from typing import Any

from hf_clipalign._checks.quoting import short
from hf_clipalign._checks.sequences import as_list
from hf_clipalign._errors import ClipAlignError


def as_texts(values: Any, name: str) -> list[str]:
    """The texts of a sequence in order of position.

    Args:
        values (`Iterable[str]`): see `as_list`.
        name (`str`): of the argument, for errors.

    Returns:
        `list[str]`: the texts.

    Raises:
        `ClipAlignError`: a single string, something without an order, or an entry that is not a text.

    Example:
        ```python
        >>> as_texts(("cat", "dog"), "class_names")
        ['cat', 'dog']
        ```
    """
    texts = as_list(values, name)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ClipAlignError(f"{name}: entry {place} (from 0) is {short(text)}, not a text: write it as one.")
    return texts
