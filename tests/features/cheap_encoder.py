"""An encoder and a processor that cost next to nothing: what is left is the machinery around them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_clipalign.backbones import DualEncoder, Projector


class CheapEncoder(DualEncoder):
    """Image features are the first `width` pixel values."""

    causal_text = True
    image_size, max_text_length, logit_scale = 4, 8, torch.tensor(1.0)

    def __init__(self, width: int) -> None:
        model = nn.Linear(width, width)
        model.config = SimpleNamespace(_name_or_path="cheap")
        super().__init__(model)

    @property
    def image_projector(self) -> Projector:
        return Projector(self.model.weight)

    text_projector = image_projector

    def image_preprojection(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        return pixel_values.flatten(1)[:, : self.vision_dim]

    def image_outputs(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        raise NotImplementedError

    text_outputs = stock_tower = image_outputs


def cheap_processor(images: list[np.ndarray], **kwargs: Any) -> dict[str, Tensor]:
    """Pixels as they are."""
    return {"pixel_values": torch.from_numpy(np.stack(images)).float()}
