"""Embeddings of many prompts, computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_clipalign._files import atomic_file
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.packing import encode_texts
from hf_clipalign.features.key import describe_model, describe_tokenizer


@torch.no_grad()
def text_embeddings(model: Any, tokenizer: Any, prompts: Sequence[str], cache: str | Path | None = None) -> Tensor:
    """Unit embeddings of prompts in the shared space, packed where the tower allows it, and kept in a file.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the checkpoint's tokenizer or processor.
        prompts (`Sequence[str]`): N texts, for example a dictionary through `fill`.
        cache (`str` or `Path`, *optional*): a safetensors file; read if it is of these weights, this tokenizer and
            these prompts, else written.

    Returns:
        `Tensor [N, d]`: float32, on the CPU.

    Raises:
        `ClipAlignError`: a prompt over the context length, or the file cannot be written.
    """
    encoder = as_dual_encoder(model)
    if cache is None:
        return encode_texts(encoder, prompts, tokenizer).float().cpu()
    content = [describe_model(encoder, None)["weights"], describe_tokenizer(tokenizer, False), list(prompts)]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    kept = _read(Path(cache), key)
    if kept is not None:
        return kept
    embeddings = encode_texts(encoder, prompts, tokenizer).float().cpu()
    with atomic_file(cache) as staging:
        save_file({"embeddings": embeddings.contiguous()}, staging, metadata={"key": key})
    return embeddings


def _read(file: Path, key: str) -> Tensor | None:
    """What the file holds, if it is whole and of this key."""
    try:
        with safe_open(file, "pt") as content:
            return content.get_tensor("embeddings") if (content.metadata() or {}).get("key") == key else None
    except (OSError, SafetensorError):
        return None
