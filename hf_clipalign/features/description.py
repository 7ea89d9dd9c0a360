"""What embeddings are made from: model, image processor, tokenizer, in plain JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from hf_clipalign.backbones import DualEncoder, weights_hash


def describe_model(encoder: DualEncoder, name: str | None, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Name and revision for people; class, type computed in (default: its own), hash of all weights to compare."""
    return {
        "name": name or getattr(encoder.config, "_name_or_path", None) or None,
        "revision": getattr(encoder.config, "_commit_hash", None),
        "class": type(encoder.model).__name__,
        "dtype": str(dtype or encoder.dtype).removeprefix("torch."),
        "weights": weights_hash(encoder.model, before_projector=True),
    }


def describe_image_processor(processor: Any) -> dict[str, Any]:
    """The settings of an image processor as plain JSON."""
    processor = getattr(processor, "image_processor", processor)
    settings = processor.to_dict() if hasattr(processor, "to_dict") else {"repr": repr(processor)}
    return json.loads(json.dumps(settings, sort_keys=True, default=str))


def describe_tokenizer(tokenizer: Any, truncate: bool) -> dict[str, Any]:
    """Class and hash of a tokenizer, and what happens to long texts."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = [repr(tokenizer), sorted(tokenizer.get_vocab().items())]
    else:  # padding and truncation are the state of the last call
        content = {
            name: v for name, v in json.loads(backend.to_str()).items() if name not in ("padding", "truncation")
        }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"tokenizer_class": type(tokenizer).__name__, "tokenizer": digest, "truncate": truncate}
