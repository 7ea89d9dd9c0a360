"""The model of an index: loaded when it is needed, and compared with the one that the index was made with."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hf_clipalign
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.features.storage.manifest import Kind, differences, plain
from hf_clipalign.search.collection.scanning import RACY

INDEXED = Kind(
    name="index",
    noun="features",
    columns={},
    identity=("model.class", "model.weights", "model.dtype", "processor"),
    description={},
    remedy="",
    titles={"model.class": "model class", "model.weights": "model weights", "model.dtype": "dtype"}
    | {"processor": "image processor"},
)
"""What decides about a row of an index."""


class LoadedModel:
    """A backbone and its processor.

    Args:
        model (`str`, `Path`, `nn.Module` or `DualEncoder`): a checkpoint folder, a Hub id, or a model.
        processor (`ProcessorMixin` or image processor, *optional*): loaded from the model's name by default.
        name (`str`, *optional*): what to call the model. Default: where it was loaded from.

    Raises:
        `ClipAlignError`: the model cannot be loaded, or a processor is neither given nor found.
    """

    def __init__(self, model: Any, processor: Any = None, name: str | None = None) -> None:
        from hf_clipalign.backbones import as_dual_encoder, load_model

        is_name = isinstance(model, (str, Path))
        self._state = checkpoint_state(model) if is_name else None
        loaded = load_model(model)
        self.encoder = as_dual_encoder(loaded)
        self.band: Sequence[int] | None = getattr(getattr(loaded, "config", None), "image_band", None)
        self.name = name or (str(model) if is_name else getattr(self.encoder.config, "_name_or_path", None)) or None
        self._processor = processor
        if is_name and self._state is None and (revision := getattr(self.encoder.config, "_commit_hash", None)):
            self._state = f"{model}@{revision}"

    @property
    def processor(self) -> Any:
        """The processor."""
        if self._processor is None:
            if not self.name:
                raise ClipAlignError("the model has no name to load a processor from: give processor=….")
            self._processor = _processor(self.name)
        return self._processor

    def describe(self) -> dict[str, Any]:
        """What decides about a row of an index, and what the model is called."""
        from hf_clipalign.features.description import describe_image_processor, describe_model

        path = self.name if self.name is None or not Path(self.name).is_dir() else str(Path(self.name).absolute())
        encoder = self.encoder
        width = encoder.image_projector.matrix.shape[1]
        return plain(
            {
                "created_by": f"hf_clipalign {hf_clipalign.__version__}",
                "model": {**describe_model(encoder, path), "state": self._state},
                "processor": describe_image_processor(self.processor),
                "linear": encoder.exact_image_projector,
                "width": width if encoder.exact_image_projector else width + encoder.embed_dim,
                "embed_dim": encoder.embed_dim,
            }
        )

    def check(self, description: Mapping[str, Any], folder: Path) -> None:
        """Refuses another model than the one that an index was made with.

        Raises:
            `ClipAlignError`: it says what differs.
        """
        if self._is_unchanged(description):
            return
        if found := differences(INDEXED, description, self.describe()):
            raise ClipAlignError(
                f"the index {str(folder)!r} was made with another model; what differs: {'; '.join(found.values())}. "
                "Give that model, or make another index."
            )

    def _is_unchanged(self, description: Mapping[str, Any]) -> bool:
        """Whether the checkpoint's files are those that the index was made with: quicker than comparing weights."""
        from hf_clipalign.features.description import describe_image_processor

        about = description["model"]
        return (
            self._state is not None
            and self._state == about.get("state")
            and str(self.encoder.dtype).removeprefix("torch.") == about["dtype"]
            and describe_image_processor(self.processor) == description["processor"]
        )

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings `[Q, d]` of texts."""
        import torch

        from hf_clipalign.backbones import encode_texts

        with torch.no_grad():
            return encode_texts(self.encoder, list(texts), self.processor).float().cpu().numpy()

    def images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Rows of an index `[Q, w]` for images as `read_image` takes them."""
        from hf_clipalign.data import read_image
        from hf_clipalign.data.images.processing import process_images, reduce_image
        from hf_clipalign.search.collection.embedding import features_of

        on_images = getattr(self.processor, "image_processor", self.processor)
        inputs = process_images(on_images, (reduce_image(read_image(image), on_images) for image in images))
        assert inputs is not None
        return features_of(self.encoder, inputs).numpy()


def checkpoint_state(path: str | Path) -> str | None:
    """Names, sizes and times of a checkpoint's files; None for a Hub id, and for files that were written just now."""
    try:
        entries = sorted((entry.name, entry.stat()) for entry in os.scandir(path) if entry.is_file())
    except OSError:
        return None
    if not entries or max(status.st_mtime_ns for _, status in entries) > time.time_ns() - RACY:
        return None
    text = "\n".join(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in entries)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _processor(name: str) -> Any:
    from hf_clipalign.backbones import load_image_processor, load_processor

    try:
        return load_processor(name)
    except ClipAlignError:
        return load_image_processor(name)


def reader_version() -> str:
    """The versions of the libraries that read images."""
    import PIL

    from hf_clipalign.data.images.file_kinds import register_heif

    return f"pillow {PIL.__version__}{' heif' if register_heif() else ''}"
