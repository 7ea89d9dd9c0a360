"""From strings to token ids, by the rules of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder

_SHOWN_CHARACTERS = 60


def tokenize(encoder: DualEncoder, tokenizer: Any, texts: Sequence[str], truncate: bool = False) -> dict[str, Tensor]:
    """Token ids of texts, padded as the backbone needs them.

    The shortest padding that holds the batch, with its mask; the full length and no mask where the family was trained
    so (`encoder.full_length_text`).

    Args:
        encoder (`DualEncoder`): the backbone that will read the ids.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the checkpoint's tokenizer, or a processor with one.
        texts (`Sequence[str]`): N prompts.
        truncate (`bool`): cut texts that are over the backbone's length instead of raising. Default False.

    Returns:
        `dict`: `input_ids [N, T]` (and `attention_mask [N, T]` unless padded to the full length), on the encoder's
        device.

    Raises:
        `ClipAlignError`: a text is longer than the backbone's context.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if not truncate:
        _check_lengths(encoder, tokenizer, texts)
    batch = tokenizer(
        list(texts),
        padding="max_length" if encoder.full_length_text else "longest",
        truncation=True,
        max_length=encoder.max_text_length,
        return_tensors="pt",
    )
    names = ("input_ids",) if encoder.full_length_text else ("input_ids", "attention_mask")
    return {name: batch[name].to(encoder.device) for name in names if name in batch}


def _check_lengths(encoder: DualEncoder, tokenizer: Any, texts: Sequence[str]) -> None:
    for index, ids in enumerate(tokenizer(list(texts), verbose=False)["input_ids"]):
        if len(ids) > encoder.max_text_length:
            shown = texts[index] if len(texts[index]) <= _SHOWN_CHARACTERS else texts[index][:_SHOWN_CHARACTERS] + "…"
            raise ClipAlignError(
                f"text {index} ({shown!r}) has {len(ids)} tokens, but the model reads {encoder.max_text_length}. "
                "Shorten it, or pass truncate=True to cut it."
            )
