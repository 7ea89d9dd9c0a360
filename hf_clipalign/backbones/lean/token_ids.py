"""Token ids from a `tokenizer.json`, without transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_clipalign._checks.texts import TextTooLong, as_texts


def checked_ids(tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Ids of texts with start and end token, nothing cut or padded.

    Args:
        tokenizer (`tokenizers.Tokenizer`): without padding and truncation.
        texts (`Sequence[str]`): N texts.
        limit (`int`): the model's context length.

    Raises:
        `ClipAlignError`: a text is longer than the context, or a single string was given.
    """
    texts = as_texts(texts, "texts")
    found = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    for number, (text, ids) in enumerate(zip(texts, found, strict=True)):
        if len(ids) > limit:
            raise TextTooLong.of(number, text, len(ids), limit, ": shorten it.")
    return found


def read_tokenizer(path: str) -> Any:
    """A tokenizer that neither pads nor cuts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
