"""What the teacher of SpectralGCD says about the plain images: computed once, kept in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import atomic_file
from hf_clipalign.data import ImageSource, fill
from hf_clipalign.features import extract_image_features, project_image_features
from hf_clipalign.trainers.teacher import Teacher, weights_digest

_WHAT = {
    "teacher": "another teacher",
    "image_processing": "another image processing",
    "images": "other images",
    "concepts": "other concepts or another template",
}


_SHOWN = 3


@dataclass(frozen=True)
class TeacherConcepts:
    """A teacher's unit features of images and of concepts.

    Args:
        images (`Tensor [N, d]`): of the plain images.
        texts (`Tensor [C, d]`): of the concepts' prompts.
        temperature (`float`): divides the cosines.
    """

    images: Tensor
    texts: Tensor
    temperature: float

    def cross_modal(self, index: Tensor) -> Tensor:
        """Similarities of some images to all concepts, `[n, C]`, divided by the temperature."""
        return self.images[index.to(self.images.device)] @ self.texts.T / self.temperature

    def of_concepts(self, rows: Sequence[int] | np.ndarray) -> TeacherConcepts:
        """The same for some of the concepts, in that order, for example `SpectralFilterResult.retained`."""
        index = torch.as_tensor(np.asarray(rows), device=self.texts.device)
        return TeacherConcepts(self.images, self.texts[index], self.temperature)

    def to(self, device: torch.device) -> TeacherConcepts:
        """The same on another device."""
        return TeacherConcepts(self.images.to(device), self.texts.to(device), self.temperature)


def teacher_concepts(
    teacher: Teacher | None,
    source: ImageSource,
    concepts: Sequence[str],
    template: str,
    temperature: float = 0.01,
    cache: str | Path | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> TeacherConcepts:
    """Takes the teacher's features of images and concepts, or reads them from a file.

    Args:
        teacher (`Teacher`, *optional*): the bigger model. None: the file must be there; its teacher is not checked.
        source (`ImageSource`): the images, not augmented.
        concepts (`Sequence[str]`): the concepts.
        template (`str`): their prompt, with one `{}`.
        temperature (`float`, *optional*, defaults to `0.01`): divides the cosines.
        cache (`str` or `Path`, *optional*): safetensors file to read, or to write if it does not exist.
        num_workers (`int`, *optional*): processes that read images. Default: by the number of images.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Raises:
        `ClipAlignError`: the file is of another teacher, other images or other concepts, or damaged, or a folder;
            neither a teacher nor a file; images that cannot be read.
    """
    prompts = fill(template, concepts)
    file = None if cache is None else Path(cache)
    if file is not None and file.is_dir():
        raise ClipAlignError(f"the teacher cache {str(file)!r} is a folder: name a file in it, such as t.safetensors")
    keys = {"images": source.fingerprint(), "concepts": _digest(prompts)}
    if teacher is not None:
        processor = getattr(teacher.processor, "image_processor", teacher.processor)
        keys |= {"teacher": weights_digest(teacher.model), "image_processing": _digest([processor.to_json_string()])}
    if file is not None and file.exists():
        return TeacherConcepts(*_read(file, keys, (len(source), len(prompts))), temperature)
    if teacher is None:
        raise ClipAlignError(
            "there is nothing to distil from: pass a teacher, the teacher_cache of an earlier run, or "
            "distillation_weight=0"
        )
    images, texts = _image_features(teacher, source, num_workers, progress), teacher.text_features(prompts).cpu()
    if file is not None:
        with atomic_file(file) as staging:
            save_file({"images": images, "texts": texts.contiguous()}, staging, metadata=keys)
    return TeacherConcepts(images, texts, temperature)


def _image_features(teacher: Teacher, source: ImageSource, num_workers: int | None, progress: bool) -> Tensor:
    encoder = teacher.encoder
    features = extract_image_features(encoder, source, teacher.processor, num_workers=num_workers, progress=progress)
    if features.skipped:
        reasons = "; ".join(reason for _, reason in features.skipped[:_SHOWN])
        more = f"; and {len(features.skipped) - _SHOWN} more" if len(features.skipped) > _SHOWN else ""
        raise ClipAlignError(
            f"{len(features.skipped)} of {len(source)} images cannot be read: repair them or leave them out. "
            f"{reasons}{more}"
        )
    return F.normalize(project_image_features(encoder, features.values), dim=-1).contiguous()


def _read(file: Path, keys: dict[str, str], rows: tuple[int, int]) -> tuple[Tensor, Tensor]:
    damaged = f"the teacher cache {str(file)!r} is damaged: delete it, it is made again"
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = stored.get_tensor("images"), stored.get_tensor("texts")
    except (SafetensorError, OSError) as error:
        raise ClipAlignError(damaged) from error
    differences = [
        f"{_WHAT[name]} ({metadata.get(name, 'unknown')[:8]}, here {value[:8]})"
        for name, value in keys.items()
        if metadata.get(name) != value
    ]
    if differences:
        raise ClipAlignError(
            f"the teacher cache {str(file)!r} was made with {' and '.join(differences)}: delete it, or name another "
            "file with teacher_cache"
        )
    fit = all(value.ndim == 2 for value in tensors) and tuple(map(len, tensors)) == rows
    if not (fit and tensors[0].shape[1] == tensors[1].shape[1] and all(map(_is_finite, tensors))):
        raise ClipAlignError(damaged)
    return tensors


def _is_finite(features: Tensor) -> bool:
    return features.is_floating_point() and bool(torch.isfinite(features).all())


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256(str(len(texts)).encode())
    for text in texts:
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
