"""From strings to token ids, by the rules of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.texts import TextTooLong, as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder


def tokenize(encoder: DualEncoder, tokenizer: Any, texts: Sequence[str], truncate: bool = False) -> dict[str, Tensor]:
    """Token ids of texts, padded as the backbone needs them.

    The shortest padding that holds the batch, with its mask; the full length and no mask where the family was trained
    so (`encoder.full_length_text`). Padding stands on the right, whatever side the tokenizer prefers: positions of
    every family count from the first token.

    Args:
        encoder (`DualEncoder`): the backbone that will read the ids.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the checkpoint's tokenizer, or a processor with one.
        texts (`Sequence[str]`): N prompts.
        truncate (`bool`, *optional*, defaults to `False`): cut texts that are over the backbone's length instead of
            raising.

    Returns:
        `dict`: `input_ids [N, T]` (and `attention_mask [N, T]` unless padded to the full length), on the encoder's
        device.

    Raises:
        `ClipAlignError`: a text is longer than the backbone's context, there is no tokenizer, or a single string is
            given instead of a list; the model would read a text at another token than its end (`check_end_token`).

    Example:
        ```python
        >>> from hf_clipalign.backbones import as_dual_encoder, tokenize
        >>> from hf_clipalign.data import load_mini
        >>> mini = load_mini()
        >>> batch = tokenize(as_dual_encoder(mini.student), mini.student_processor, ["a cat", "an old tree"])
        >>> sorted(batch)
        ['attention_mask', 'input_ids']
        ```
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
        padding_side="right",
        truncation=True,
        max_length=encoder.max_text_length,
        return_tensors="pt",
    )
    check_end_token(encoder, tokenizer, batch["input_ids"])
    names = ("input_ids",) if encoder.full_length_text else ("input_ids", "attention_mask")
    return {name: batch[name].to(encoder.device) for name in names if name in batch}


def check_end_token(encoder: DualEncoder, tokenizer: Any, input_ids: Tensor) -> None:
    """Refuses texts that a model of the first CLIP configurations would read at an added token.

    Those configurations give 2 as `eos_token_id`, and the model reads a text at its highest id: at the end token as
    long as that is the last of the vocabulary, and at any token that was added behind it.

    Args:
        encoder (`DualEncoder`): the backbone.
        tokenizer (`PreTrainedTokenizerBase`): knows the end token.
        input_ids (`LongTensor [N, T]`): the texts.

    Raises:
        `ClipAlignError`: names the token and what to write into the configuration.
    """
    end = getattr(tokenizer, "eos_token_id", None)
    if encoder.true_end_token is None or end is None or int(input_ids.max()) <= end:
        return
    highest = int(input_ids.max())
    raise ClipAlignError(
        f"the token {tokenizer.convert_ids_to_tokens(highest)!r} (id {highest}) lies above the end token (id {end}), "
        f"and with eos_token_id 2 the model reads a text at its highest id: set text_config.eos_token_id to {end} in "
        "the config.json and load the model again."
    )


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
        raise TextTooLong.of(index, text, length, limit, ". Shorten it, or pass truncate=True to cut it.")


def project_texts(encoder: DualEncoder, features: Tensor, normalize: bool = True) -> Tensor:
    """Pre-projection text features `[N, d_t]` in the shared space, `[N, d]`; unit length if `normalize`.

    Args:
        encoder (`DualEncoder`): the backbone.
        features (`Tensor [N, d_t]`): from `encode_prompts`.
        normalize (`bool`, *optional*, defaults to `True`): unit length.

    Returns:
        `Tensor [N, d]`.

    Example:
        ```python
        >>> from hf_clipalign.backbones import encode_prompts, pack_prompts, project_texts, tokenize
        >>> ids = tokenize(encoder, processor, ["a photo of a cat.", "a photo of a dog."])["input_ids"]
        >>> project_texts(encoder, encode_prompts(encoder, pack_prompts(encoder, ids))).shape
        torch.Size([2, 128])
        ```
    """
    projected = encoder.project_text(features)
    return F.normalize(projected, dim=-1) if normalize else projected
