"""The text tower of an index as an ONNX file, so that words are looked up without importing torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_folder
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, tokenize
from hf_clipalign.features.description import describe_model
from hf_clipalign.hub.export.common import example_inputs, processor_part
from hf_clipalign.hub.export.onnx import trace_onnx
from hf_clipalign.search.text_tower import METADATA, MODEL_FILE, PROBES, TOKENIZER_FILE, TextTower, described

_TOLERANCE = 1e-3


def export_text_tower(model: Any, processor: Any, folder: str | Path) -> Path:
    """Writes a text tower up to its projector, and its tokenizer, for `TextTower` (extra `onnx`).

    What was written is compared with the model on a few texts before it takes its place.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone.
        processor (`ProcessorMixin` or `PreTrainedTokenizerBase`): the checkpoint's processor, or its tokenizer.
        folder (`str` or `Path`): the folder to write, as a whole; in an index `IDX/text`.

    Returns:
        `Path`: the folder.

    Raises:
        `ClipAlignError`: the tokenizer has no `tokenizers` form, a package is missing, the tower cannot be traced,
            what was written gives other features, or the folder cannot be written.

    Example:
        ```python
        >>> from hf_clipalign.hub import export_text_tower
        >>> sorted(file.name for file in export_text_tower(model, processor, "text").iterdir())
        ['tokenizer.json', 'tower.onnx', 'tower.onnx.data']
        ```
    """
    encoder = as_dual_encoder(model)
    tokenizer = processor_part(processor, "tokenizer", "tokenizer")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ClipAlignError(
            f"a {type(tokenizer).__name__} cannot be written as tokenizer.json: search goes through torch."
        )
    facts = {
        "weights": describe_model(encoder, None)["weights"],
        "max_length": encoder.max_text_length,
        "pad_id": int(tokenizer.pad_token_id or 0),
        "full_length": encoder.full_length_text,
        "width": encoder.projector("text").matrix.shape[1],
    }
    program = trace_onnx(_TextFeatures(encoder).eval(), example_inputs(encoder, "text"), "text_features")
    program.model.metadata_props[METADATA] = described(facts)
    target = Path(folder)
    with atomic_folder(target, keep=False) as staging:
        program.save(str(staging / MODEL_FILE), external_data=True)
        backend.save(str(staging / TOKENIZER_FILE))
        _compare(encoder, tokenizer, staging)
    return target


class _TextFeatures(nn.Module):
    """Text features before the projector, with the column of ones where the projector has a bias."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.model, self.encoder = encoder.model, encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        features = self.encoder.text_outputs(input_ids, attention_mask).pooler_output
        return self.encoder.text_projector.lift(features).float()


def _compare(encoder: DualEncoder, tokenizer: Any, folder: Path) -> None:
    """Raises if texts are other tokens, or have other features, than with the model."""
    tower = TextTower.open(folder)
    if tower is None:
        raise ClipAlignError("reading ONNX needs the package onnxruntime: pip install 'hf_clipalign[onnx]'.")
    for text in PROBES:
        batch = tokenize(encoder, tokenizer, [text], truncate=True)
        ids = tower.token_ids([text])[0]
        expected = tokenizer([text], verbose=False)["input_ids"][0]
        if ids != list(expected):
            raise ClipAlignError(
                f"a {type(tokenizer).__name__} reads {text!r} differently from its tokenizer.json: search goes "
                "through torch."
            )
        if len(ids) > encoder.max_text_length:
            continue
        with torch.no_grad():
            wanted = encoder.text_projector.lift(encoder.text_preprojection(**batch)).float().cpu().numpy()
        found = tower.features([text])
        if not np.abs(found - wanted).max() <= _TOLERANCE * max(1.0, np.abs(wanted).max()):
            raise ClipAlignError(
                "the exported text tower gives other features than the model: search goes through torch."
            )
