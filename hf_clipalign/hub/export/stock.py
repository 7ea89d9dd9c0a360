"""The aligned tower as a checkpoint that stock transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hf_clipalign._checks.tensors import parse_dtype
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.hub.export.common import EXPORT_DTYPES
from hf_clipalign.isoclip import IsoCLIPModel


def export_stock(
    model: IsoCLIPModel,
    path: str | Path,
    processor: Any = None,
    modality: Modality = "image",
    compact: bool = False,
    dtype: str | torch.dtype = "float32",
) -> Path:
    """Writes one aligned tower as a stock checkpoint: `IsoCLIPModel.save_stock` with the arguments of the exports.

    Args:
        model (`IsoCLIPModel`): the aligned model.
        path (`str` or `Path`): folder to write to; files that are not of a checkpoint stay there.
        processor (`ProcessorMixin`, *optional*): saved with it. Default: `model.known_processor()`.
        modality (`"image"` or `"text"`): which tower, defaults to `"image"`.
        compact (`bool`): the exact smaller embedding with the same cosines, defaults to False.
        dtype (`"float32"` or `"float16"`): of the saved weights, defaults to `"float32"`.

    Returns:
        `Path`: the folder.

    Raises:
        `ClipAlignError`: as `IsoCLIPModel.save_stock`.

    Example:
        ```python
        >>> from transformers import CLIPVisionModelWithProjection
        >>> from hf_clipalign.hub import export_stock
        >>> _ = export_stock(aligned, "clip-stock", compact=True)
        >>> CLIPVisionModelWithProjection.from_pretrained("clip-stock").config.projection_dim
        79
        ```
    """
    model.save_stock(path, modality, compact, processor, parse_dtype(dtype, *EXPORT_DTYPES))
    return Path(path)
