"""Embeddings of many prompts, computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.packing import encode_texts
from hf_clipalign.features.description import describe_model, describe_tokenizer
from hf_clipalign.features.storage.manifest import Column, Kind
from hf_clipalign.features.storage.single_file import cached_tensors

TEXT_EMBEDDINGS = Kind(
    name="text-embeddings",
    noun="text embeddings",
    columns={"embeddings": Column("float32", 2)},
    identity=("model.weights", "tokenizer", "prompts"),
    description=dict,
    remedy="Run the same command again with another file",
    titles={"model.weights": "another model's weights", "tokenizer": "another tokenizer", "prompts": "other prompts"},
)


@torch.no_grad()
def text_embeddings(model: Any, tokenizer: Any, prompts: Sequence[str], cache: str | Path | None = None) -> Tensor:
    """Unit embeddings of prompts in the shared space, packed where the tower allows it, and kept in a file.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the checkpoint's tokenizer or processor.
        prompts (`Sequence[str]`): N texts, for example a dictionary through `fill`.
        cache (`str` or `Path`, *optional*): a safetensors file; read if it is of these weights, this tokenizer and
            these prompts. One that is damaged or of others is made again, with a warning that says why.

    Returns:
        `Tensor [N, d]`: float32, on the CPU.

    Raises:
        `ClipAlignError`: a prompt over the context length, or a file that is no such cache, or that the disk refuses
            to read or to write.

    Example:
        ```python
        >>> from hf_clipalign.features import text_embeddings
        >>> text_embeddings(model, processor, ["a cat", "a dog"], cache="texts.safetensors").shape
        torch.Size([2, 128])
        ```
    """
    encoder = as_dual_encoder(model)

    def compute() -> dict[str, Tensor]:
        return {"embeddings": encode_texts(encoder, prompts, tokenizer).float().cpu()}

    if cache is None:
        return compute()["embeddings"]
    description = {
        "model": describe_model(encoder, None),
        "tokenizer": describe_tokenizer(tokenizer, False),
        "prompts": {"number": len(prompts), "sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()},
    }
    rows = {"embeddings": len(prompts)}
    return cached_tensors(Path(cache), TEXT_EMBEDDINGS, description, compute, replace=True, rows=rows)["embeddings"]
