"""The features that the teacher of SpectralGCD has of the plain images: computed once, kept in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_read
from hf_clipalign.data import ImageSource, fill
from hf_clipalign.features import extract_image_features, project_image_features
from hf_clipalign.features.storage.manifest import Column, Kind
from hf_clipalign.features.storage.single_file import cached_tensors
from hf_clipalign.trainers.teacher import Teacher, weights_digest

TEACHER_CONCEPTS = Kind(
    name="teacher-concepts",
    noun="features of a teacher",
    columns={"images": Column("float", 2), "texts": Column("float", 2, per_row=False)},
    identity=("teacher", "image_processing", "images", "concepts"),
    description=dict,
    remedy="Or pass the teacher, so that they are made",
    titles={
        "teacher": "another teacher",
        "image_processing": "another image processing",
        "images": "other images",
        "concepts": "other concepts or another template",
    },
)
_SHOWN = 3


@dataclass(frozen=True)
class TeacherConcepts:
    """A teacher's unit features of images and of concepts.

    Args:
        images (`Tensor [N, d]`): of the plain images.
        texts (`Tensor [C, d]`): of the concepts' prompts.
        temperature (`float`): divides the cosines.

    Example:
        ```python
        >>> from hf_clipalign.trainers import TeacherConcepts
        >>> TeacherConcepts(torch.eye(2), torch.eye(2), temperature=0.01).images.shape
        torch.Size([2, 2])
        ```
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
        `ClipAlignError`: the file is of another teacher, other images or other concepts, or a folder, or damaged and
            without a teacher that makes it again; neither a teacher nor a file; images that cannot be read.

    Example:
        ```python
        >>> from hf_clipalign.trainers import Teacher, teacher_concepts
        >>> teacher = Teacher(mini.teacher, mini.teacher_processor)
        >>> concepts = teacher_concepts(teacher, images, ["cat", "dog", "sun"], "an emoji of {}", progress=False)
        >>> concepts.images.shape, concepts.texts.shape
        (torch.Size([24, 128]), torch.Size([3, 128]))
        ```
    """
    prompts = fill(template, concepts)
    file = None if cache is None else Path(cache)
    with explained_read(file or "."):
        is_folder, is_there = (file is not None and test(file) for test in (Path.is_dir, Path.exists))
    if is_folder:
        raise ClipAlignError(f"the teacher cache {str(file)!r} is a folder: name a file in it, such as t.safetensors")
    description = {"images": source.fingerprint(), "concepts": _digest(prompts)}
    if teacher is not None:
        processor = getattr(teacher.processor, "image_processor", teacher.processor)
        description["teacher"] = weights_digest(teacher.model)
        description["image_processing"] = _digest([processor.to_json_string()])
    elif not is_there:
        raise ClipAlignError(
            "there is nothing to distil from: pass a teacher, the teacher_cache of an earlier run, or "
            "distillation_weight=0"
        )

    def compute() -> dict[str, Tensor]:
        assert teacher is not None
        images = _image_features(teacher, source, num_workers, progress)
        return {"images": images, "texts": teacher.text_features(prompts).cpu()}

    if file is None:
        tensors = compute()
    else:
        rows = {"images": len(source), "texts": len(prompts)}
        maker = None if teacher is None else compute
        tensors = cached_tensors(file, TEACHER_CONCEPTS, description, maker, rows=rows)
    return TeacherConcepts(tensors["images"], tensors["texts"], temperature)


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


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256(str(len(texts)).encode())
    for text in texts:
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
