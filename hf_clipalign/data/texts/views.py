"""Changed copies of texts: the same meaning in other words, as far as that goes without a language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_clipalign._checks.numbers import check_number
from hf_clipalign._checks.texts import as_texts


def text_views(texts: Sequence[str], strength: float, seed: int = 0) -> list[str]:
    """One changed copy of each text: words left out, and in the last word that is left, neighbouring letters swapped.

    What is drawn for a text depends on the seed and its place only.

    Args:
        texts (`Sequence[str]`): N texts.
        strength (`float`): above 0, at most 1: changes per word, but at least one change a text.
        seed (`int`, *optional*, defaults to `0`): another seed makes other copies.

    Returns:
        `list[str]`: N texts.

    Raises:
        `ClipAlignError`: a strength out of range, or no texts.

    Example:
        ```python
        >>> from hf_clipalign.data import text_views
        >>> text_views(["an emoji of a cat", "dog"], strength=0.25)
        ['an emoji of a', 'dgo']
        ```
    """
    check_number("strength", strength, "a number above 0, at most 1", above=0, most=1)
    return [_changed(text, strength, (seed, place)) for place, text in enumerate(as_texts(texts, "texts"))]


def _changed(text: str, strength: float, key: tuple[int, ...]) -> str:
    generator = np.random.default_rng(key)
    words = text.split()
    for _ in range(max(1, round(strength * len(words)))):
        if len(words) > 1:
            words.pop(int(generator.integers(len(words))))
        elif words and len(words[0]) > 1:
            words[0] = _swapped(words[0], int(generator.integers(len(words[0]) - 1)))
    return " ".join(words)


def _swapped(word: str, place: int) -> str:
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
