"""The frozen teacher of KDPL: its text features are computed once, its image features when they can be kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, load_model, load_processor, weights_hash
from hf_clipalign.backbones.packing import encode_texts
from hf_clipalign.data import ImageSource, fill
from hf_clipalign.features.storage.manifest import Column, Kind
from hf_clipalign.features.storage.single_file import cached_tensors
from hf_clipalign.trainers.images import collate

logger = logging.getLogger(__name__)

TEACHER_FEATURES = Kind(
    name="teacher-features",
    noun="features of the teacher",
    columns={"features": Column("float32", 2)},
    identity=("modality", "content"),
    description=dict,
    remedy="Delete it, it is made again",
    titles={"content": "other weights, prompts or images"},
)
_BATCH = 64
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "architectures")


class Teacher:
    """A bigger model with hand-written prompts.

    Args:
        model (`str`, `Path`, `nn.Module` or `DualEncoder`): the model, or the checkpoint to load it from.
        processor (`ProcessorMixin`, *optional*): its processor. Default: the one of the checkpoint that `model` names.
        cache_dir (`str` or `Path`, *optional*): where features are kept between runs, as safetensors. Their file names
            are hashes of the teacher's weights and configuration, and of the prompts and their token ids, or of the
            images and the image processor.

    Raises:
        `ClipAlignError`: the checkpoint cannot be loaded; a model without a processor.

    Example:
        ```python
        >>> from hf_clipalign.trainers import Teacher
        >>> Teacher(mini.teacher, mini.teacher_processor).text_features(["a cat", "a dog"]).shape
        torch.Size([2, 128])
        ```
    """

    def __init__(self, model: Any, processor: Any = None, cache_dir: str | Path | None = None):
        if processor is None:
            if not isinstance(model, (str, Path)):
                raise ClipAlignError(
                    "the teacher is a model without a processor: pass teacher_processor, "
                    "for example load_processor(checkpoint)"
                )
            processor = load_processor(model)
        self.encoder: DualEncoder = as_dual_encoder(load_model(model))
        self.encoder.model.eval().requires_grad_(False)
        self.processor = processor
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._weights_digest: str | None = None

    @property
    def model(self) -> nn.Module:
        """The two-tower model."""
        return self.encoder.model

    @property
    def n_parameters(self) -> int:
        """Size of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit text features of prompts, `[C, d]`: from the cache if it has them for these weights and prompts."""

        def compute() -> Tensor:
            logger.info("computing the teacher's features of %d prompts", len(prompts))
            return encode_texts(self.encoder, prompts, self.processor).float()

        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        return self._cached("text", [*prompts, repr(tokenizer(list(prompts))["input_ids"])], compute)

    def class_features(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit text features of classes, `[C, d]`; of several templates the mean of each class's unit features."""
        features = [self.text_features(fill(template, class_names)) for template in templates]
        return features[0] if len(features) == 1 else F.normalize(torch.stack(features).sum(dim=0), dim=-1)

    @torch.no_grad()
    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Unit image features, `[N, d]`, from `pixel_values [N, 3, H, W]`."""
        encoder = self.encoder
        features = encoder.encode_image(pixel_values.to(encoder.device, encoder.dtype))
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def source_features(self, images: Dataset, source: ImageSource, num_workers: int = 0) -> Tensor:
        """Unit image features of a whole source, `[N, d]`, cached.

        Args:
            images (`PromptImages`): the source's images with `teacher_pixel_values`, not augmented.
            source (`ImageSource`): the same images; its fingerprint is part of the key.
            num_workers (`int`, *optional*, defaults to `0`): processes that read images.
        """

        def compute() -> Tensor:
            logger.info("computing the teacher's features of %d images", len(source))
            loader: DataLoader = DataLoader(images, batch_size=_BATCH, num_workers=num_workers, collate_fn=collate)
            return torch.cat([self.image_features(batch["teacher_pixel_values"]) for batch in loader])

        image_processor = getattr(self.processor, "image_processor", self.processor)
        return self._cached("image", [source.fingerprint(), image_processor.to_json_string()], compute)

    def _cached(self, kind: str, content: Sequence[str], compute: Callable[[], Tensor]) -> Tensor:
        if self.cache_dir is None:
            return compute()
        key = self._key(kind, content)
        features = cached_tensors(
            self.cache_dir / f"teacher-{kind}-{key}.safetensors",
            TEACHER_FEATURES,
            {"modality": kind, "content": key},
            lambda: {"features": compute()},
            replace=True,
        )["features"]
        return features.to(self.encoder.device)

    def _key(self, kind: str, content: Sequence[str]) -> str:
        digest = hashlib.sha256(f"{kind} {len(content)} {self._weights()}".encode())
        for text in content:
            digest.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32]

    def _weights(self) -> str:
        if self._weights_digest is None:
            self._weights_digest = weights_digest(self.model)
        return self._weights_digest


def weights_digest(model: Any) -> str:
    """A hash of a model's configuration and of every weight and buffer by name; not of where it was loaded from."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _VOLATILE}
    content = f"{json.dumps(config, sort_keys=True, default=str)} {weights_hash(model)}"
    return hashlib.sha256(content.encode()).hexdigest()
