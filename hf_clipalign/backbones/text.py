"""From strings to token ids, by the rules of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._texts import as_texts
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
        `ClipAlignError`: a text is longer than the backbone's context, or there is no tokenizer.
    """
    texts = as_texts(texts, "texts")
    own = _open_clip_tokenizer(tokenizer)
    if own is not None:
        return _open_clip_tokens(encoder, own, texts, truncate)
    given, tokenizer = tokenizer, getattr(tokenizer, "tokenizer", tokenizer)
    if not callable(tokenizer) or hasattr(tokenizer, "image_mean"):
        raise ClipAlignError(
            f"a {type(given).__name__} cannot read texts: give the checkpoint's processor or tokenizer."
        )
    if not truncate:
        _check_lengths(encoder, tokenizer, texts)
    batch = tokenizer(
        texts,
        padding="max_length" if encoder.full_length_text else "longest",
        truncation=True,
        max_length=encoder.max_text_length,
        return_tensors="pt",
    )
    names = ("input_ids",) if encoder.full_length_text else ("input_ids", "attention_mask")
    return {name: batch[name].to(encoder.device) for name in names if name in batch}


def token_count(tokenizer: Any, text: str) -> int:
    """Length of a text in tokens, start and end token included, nothing cut or padded."""
    own = _open_clip_tokenizer(tokenizer)
    if own is not None:
        return _open_clip_length(own, text)
    return len(getattr(tokenizer, "tokenizer", tokenizer)(text, verbose=False)["input_ids"])


def _open_clip_tokenizer(tokenizer: Any) -> Any:
    """open_clip's own tokenizer, alone or in a processor; None for those of transformers."""
    candidates = (tokenizer, getattr(tokenizer, "tokenizer", None))
    return next((own for own in candidates if type(own).__module__.split(".")[0] == "open_clip"), None)


def _open_clip_tokens(encoder: DualEncoder, tokenizer: Any, texts: Sequence[str], truncate: bool) -> dict[str, Tensor]:
    """Ids of open_clip's own tokenizers, which pad to the full length and cut what is longer."""
    length = min(encoder.max_text_length, tokenizer.context_length)
    if not truncate:
        for index, text in enumerate(texts):
            _check_length(index, text, _open_clip_length(tokenizer, text), length)
    return {"input_ids": tokenizer(list(texts), context_length=length).to(encoder.device)}


def _open_clip_length(tokenizer: Any, text: str) -> int:
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer(tokenizer.clean_fn(text))["input_ids"])


def _check_lengths(encoder: DualEncoder, tokenizer: Any, texts: Sequence[str]) -> None:
    for index, ids in enumerate(tokenizer(list(texts), verbose=False)["input_ids"]):
        _check_length(index, texts[index], len(ids), encoder.max_text_length)


def _check_length(index: int, text: str, length: int, limit: int) -> None:
    if length > limit:
        shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
        raise ClipAlignError(
            f"text {index} ({shown!r}) has {length} tokens, but the model reads {limit}. "
            "Shorten it, or pass truncate=True to cut it."
        )
