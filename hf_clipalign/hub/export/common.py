"""What the exports share: number formats and the embeddings that they must reproduce."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, Projector
from hf_clipalign.hub.published import without_local_names

EXPORT_DTYPES = ("float32", "float16")


def compression(projector: Projector, size: int) -> Tensor:
    """The map `[k, d]` that shortens trimmed embeddings `[N, d]` to dimension k and keeps every cosine."""
    left = torch.linalg.svd(projector.matrix.detach().double().cpu(), full_matrices=False).U
    return left[:, :size].T.contiguous()


def processor_part(processor: Any, name: str, what: str) -> Any:
    """`processor.<name>`, or the processor itself if it is that part already.

    Raises:
        `ClipAlignError`: there is no such part.
    """
    part = getattr(processor, name, None)
    marker = "convert_ids_to_tokens" if name == "tokenizer" else "image_mean"
    if part is None and hasattr(processor, marker):
        part = processor
    if part is None:
        raise ClipAlignError(f"{type(processor).__name__} holds no {what}: give the checkpoint's own processor.")
    return part


def example_inputs(encoder: DualEncoder, modality: str, batch_size: int = 2) -> dict[str, Tensor]:
    """Inputs of the right shapes for tracing a tower, on the encoder's device."""
    if modality == "image":
        side = encoder.image_size
        return {"pixel_values": torch.zeros(batch_size, 3, side, side, device=encoder.device)}
    length = encoder.max_text_length if encoder.full_length_text else min(encoder.max_text_length, 16)
    ids = torch.ones(batch_size, length, dtype=torch.long, device=encoder.device)
    return (
        {"input_ids": ids} if encoder.full_length_text else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    )


def describe_preprocessing(encoder: DualEncoder, modality: str, processor: Any) -> dict[str, Any]:
    """What has to be done to an image or a text before a tower, as JSON can hold it.

    Args:
        encoder (`DualEncoder`): the model's view.
        modality (`"image"` or `"text"`): which tower.
        processor (`ProcessorMixin`, *optional*): the checkpoint's processor; without it only sizes are known.
    """
    if modality == "image":
        settings = {"size": {"height": encoder.image_size, "width": encoder.image_size}}
        if processor is not None:
            settings |= processor_part(processor, "image_processor", "image processor").to_dict()
        return json.loads(json.dumps(without_local_names(settings), default=str))
    padding = "max_length" if encoder.full_length_text else "longest"
    tokenizer = None if processor is None else processor_part(processor, "tokenizer", "tokenizer")
    return {
        "tokenizer_class": None if tokenizer is None else type(tokenizer).__name__,
        "max_length": encoder.max_text_length,
        "padding": padding,
        "truncation": True,
    }
