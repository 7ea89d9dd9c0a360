"""How words become the first value of a learned context."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder
from hf_clipalign.tuners._base import ContextConfig, random_prompts
from hf_clipalign.tuners._beginnings import find_tokenizer


def resolve_context(config: ContextConfig, encoder: DualEncoder) -> None:
    """Finds the token ids of `ctx_init` once and keeps them in the configuration, so that loading needs no tokenizer.

    Raises:
        `ClipAlignError`: no tokenizer is found; the words give fewer than `n_ctx` tokens.
    """
    if config.ctx_init is not None and config.ctx_init_ids is None:
        config.ctx_init_ids = _ids_of_words(config, encoder)
    _check_ids(config, encoder)


def initial_context(config: ContextConfig, encoder: DualEncoder) -> Tensor:
    """The first value of a context, `[n_ctx, d_t]`: the embeddings of the given words, or N(0, 0.02)."""
    if config.ctx_init_ids is None:
        return random_prompts(config.n_ctx, encoder.text_dim, encoder)
    return _token_table(encoder).weight.detach()[torch.tensor(config.ctx_init_ids)]


def _check_ids(config: ContextConfig, encoder: DualEncoder) -> None:
    if config.ctx_init_ids is None:
        return
    if len(config.ctx_init_ids) != config.n_ctx:
        raise ClipAlignError(
            f"ctx_init_ids has {len(config.ctx_init_ids)} ids, n_ctx is {config.n_ctx}: give {config.n_ctx}."
        )
    known = len(_token_table(encoder).weight)
    if not all(0 <= token < known for token in config.ctx_init_ids):
        raise ClipAlignError(f"ctx_init_ids={config.ctx_init_ids}: the model knows the ids 0 to {known - 1} only.")


def _token_table(encoder: DualEncoder) -> Any:
    assert encoder.module_paths is not None
    return encoder.model.get_submodule(encoder.module_paths.token_embedding)


def _ids_of_words(config: ContextConfig, encoder: DualEncoder) -> list[int]:
    way_out = "Pass ctx_init_ids (the token ids of the words), or tokenizer_name_or_path (a folder or Hub id)."
    name = config.tokenizer_name_or_path or getattr(encoder.model, "name_or_path", "")
    if not name:
        raise ClipAlignError(
            f"ctx_init={config.ctx_init!r} needs a tokenizer, and the model has none beside it. {way_out}"
        )
    tokenizer = find_tokenizer(name, str(config.ctx_init))
    if tokenizer is None:
        raise ClipAlignError(f"no tokenizer for ctx_init={config.ctx_init!r} at {str(name)!r}. {way_out}")
    ids = tokenizer(str(config.ctx_init), add_special_tokens=False)["input_ids"]
    if len(ids) < config.n_ctx:
        raise ClipAlignError(
            f"ctx_init={config.ctx_init!r} has {len(ids)} tokens, fewer than n_ctx={config.n_ctx}: give more words, a "
            "smaller n_ctx, or ctx_init=None for a random start."
        )
    return ids[: config.n_ctx]
