"""A learned context as vocabulary: a stock checkpoint whose tokenizer knows the context vectors as words."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_folder
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.dual_encoder import DualEncoder
from hf_clipalign.tuners._layers import active_context
from hf_clipalign.tuners.coop.layer import CoOpContext


def export_vocabulary(peft_model: Any, tokenizer: Any, path: str | Path, image_processor: Any = None) -> str:
    """Writes a stock checkpoint in which CoOp's context is the tokens `<ctx_0>`, `<ctx_1>`, … of the tokenizer.

    It loads without this package; the stock pipeline `zero-shot-image-classification` with the returned
    `hypothesis_template` gives the logits of the adapter.

    Args:
        peft_model (`PeftModel`): a model with an active CoOp adapter, its context shared by all classes.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the model's tokenizer, or its processor.
        path (`str` or `Path`): folder to write.
        image_processor (`BaseImageProcessor`, *optional*): saved beside the model, so that pipelines find it. Default:
            the processor's, if `tokenizer` is a processor.

    Returns:
        `str`: the template, `"<ctx_0> <ctx_1> <ctx_2> <ctx_3> {}."` for four vectors before the class name.

    Raises:
        `ClipAlignError`: the model has no active CoOp adapter; its context is class-specific; the folder cannot be
            written.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import CoOpConfig, export_vocabulary
        >>> prompted = get_peft_model(load_mini().student, CoOpConfig(n_ctx=4))
        >>> export_vocabulary(prompted, processor, "prompts-as-tokens")
        '<ctx_0> <ctx_1> <ctx_2> <ctx_3> {}.'
        ```
    """
    image_processor = image_processor or getattr(tokenizer, "image_processor", None)
    tokenizer = copy.deepcopy(getattr(tokenizer, "tokenizer", tokenizer))
    encoder = as_dual_encoder(peft_model)
    layer = _shared_context(encoder)
    names = [f"<ctx_{index}>" for index in range(layer.n_ctx)]
    token_ids = _add_words(tokenizer, names)
    stock = _with_words(encoder, layer, token_ids)
    with atomic_folder(path) as folder:
        stock.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if image_processor is not None:
            image_processor.save_pretrained(folder)
    return _template(names, layer.class_token_position)


def _shared_context(encoder: DualEncoder) -> CoOpContext:
    layer = active_context(encoder)
    if not isinstance(layer, CoOpContext):
        raise ClipAlignError("only CoOp's context can be vocabulary: activate a CoOp adapter.")
    if layer.needs_own_rows:
        raise ClipAlignError("a class-specific context has no words that all classes share: train a shared one.")
    return layer


def _add_words(tokenizer: Any, names: list[str]) -> list[int]:
    from tokenizers import AddedToken

    added = tokenizer.add_tokens([AddedToken(name, lstrip=True, normalized=False) for name in names])
    if added != len(names):
        raise ClipAlignError(f"the tokenizer already knows some of {names}: export from the original tokenizer.")
    return tokenizer.convert_tokens_to_ids(names)


def _with_words(encoder: DualEncoder, layer: CoOpContext, token_ids: list[int]) -> Any:
    """A copy of the bare model whose token table has the context vectors at `token_ids`."""
    context = layer.active_prompts.detach()
    paths = encoder.module_paths
    assert paths is not None
    parent_path, _, name = paths.token_embedding.rpartition(".")
    stock = copy.deepcopy(encoder.model)
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        stock.__dict__.pop(leftover, None)
    table: Any = stock.get_submodule(paths.token_embedding)
    table = table.get_base_layer()
    size = max(*token_ids, len(table.weight) - 1) + 1
    grown = nn.Embedding(size, table.weight.shape[1], dtype=table.weight.dtype, device=table.weight.device)
    with torch.no_grad():
        grown.weight[: len(table.weight)] = table.weight
        grown.weight[torch.tensor(token_ids)] = context.to(table.weight)
    setattr(stock.get_submodule(parent_path), name, grown)
    _describe(stock.config, size, encoder)
    return stock


def _describe(config: Any, size: int, encoder: DualEncoder) -> None:
    """The size of the vocabulary, and the true end token: pooling at the highest id would stop at a new word."""
    text_config = config.text_config
    end_token = encoder.true_end_token
    text_config.vocab_size = size
    if end_token is not None:
        text_config.eos_token_id = end_token


def _template(names: list[str], position: str) -> str:
    half = {"end": len(names), "middle": len(names) // 2, "front": 0}[position]
    return f"{' '.join([*names[:half], '{}', *names[half:]])}."
