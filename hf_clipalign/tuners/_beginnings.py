"""What prompts may begin with where a context takes the place of their first tokens."""

from __future__ import annotations

from typing import Any

_STAND_IN = "X"


def stand_ins(n_ctx: int) -> str:
    """Words for n context vectors in a prompt that a stock tokenizer reads: "X" is one token in every vocabulary."""
    return " ".join([_STAND_IN] * n_ctx)


def known_beginnings(tokenizer_name: str, template: str, n_ctx: int) -> list[list[int]] | None:
    """The token ids that a context of n vectors may replace: words of the template, stand-ins, marked places.

    Args:
        tokenizer_name (`str`): folder or Hub id; only what is on this machine is looked at.
        template (`str`): the adapter's own, with one `{}`.
        n_ctx (`int`): n.

    Returns:
        `list[list[int]]`, *optional*: lists of n ids each; None where no tokenizer is found.
    """
    places = stand_ins(n_ctx)
    tokenizer = find_tokenizer(tokenizer_name, places, local_files_only=True) if tokenizer_name else None
    if tokenizer is None:
        return None
    texts = (template.split("{}")[0].strip(), places)
    found = [tokenizer(text, add_special_tokens=False)["input_ids"][:n_ctx] for text in texts if text]
    marked = tokenizer("")["input_ids"][:1] * n_ctx
    return [ids for ids in (*found, marked) if len(ids) == n_ctx]


def find_tokenizer(name: str, words: str, **options: Any) -> Any:
    """The tokenizer of a folder or Hub id; None where there is none that knows the words."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError):
        return None
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    # a folder without tokenizer files gives an empty tokenizer instead of an error: every word is unknown to it
    return None if not ids or set(ids) & set(tokenizer.all_special_ids) else tokenizer
