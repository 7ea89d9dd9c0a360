"""Lists of texts on input: read by position, each entry a text, and a single string never taken for its letters."""

from __future__ import annotations

from typing import Any

from hf_clipalign._checks.quoting import short
from hf_clipalign._checks.sequences import as_list
from hf_clipalign._errors import ClipAlignError

_SHOWN_CHARACTERS = 60


class TextTooLong(ClipAlignError):
    """A text beyond a model's context.

    Attributes:
        problem (`str`): the text, cut to its beginning, and its tokens, for messages without its place.
        text (`str`): the text as a whole.
    """

    problem = ""
    text = ""

    @classmethod
    def of(cls, place: int, text: str, length: int, limit: int, way_out: str) -> TextTooLong:
        """The error for a text.

        Args:
            place (`int`): of the text among those given.
            text (`str`): the text.
            length, limit (`int`): its tokens, and how many the model reads.
            way_out (`str`): end of the message.
        """
        shown = repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")
        count = f"has {length} tokens, but the model reads {limit}"
        error = cls(f"text {place} ({shown}) {count}{way_out}")
        error.problem, error.text = f"{shown} {count}", text
        return error


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
