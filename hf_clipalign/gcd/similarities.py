"""How images are described by concepts: checked unit features in, distributions over concepts out, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._checks.tensors import as_numbers, check_finite, not_finite_rows
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import unit_rows

_SHOWN = 3


@dataclass
class ConceptSimilarities:
    """Similarities of images to concepts: cosine / temperature, and its softmax over the concepts if asked for.

    Args:
        texts (`Tensor [C, d]`): float64 unit features of the concepts, on the device to compute on.
        temperature (`float`): divides the cosines.
        softmax (`bool`): whether an image's similarities are made a distribution.
    """

    texts: Tensor
    temperature: float
    softmax: bool

    def of_images(self, images: Tensor) -> Tensor:
        """`[n, C]` for some images over all concepts."""
        logits = (images @ self.texts.T).div_(self.temperature)
        return torch.softmax(logits, dim=1) if self.softmax else logits

    def by_concept(self, images: Tensor, block_size: int, held_bytes: int) -> Callable[[slice], Tensor]:
        """A function that gives `[b, N]` for some concepts over all images.

        The whole `[C, N]` is computed once and held if it is small enough; else each call computes its part anew, from
        what the softmax subtracts from the logits of each image.
        """
        if len(images) * len(self.texts) * images.element_size() <= held_bytes:
            held = images.new_empty(len(self.texts), len(images))
            for part, columns in zip(images.split(block_size), held.split(block_size, dim=1), strict=True):
                columns.copy_(self.of_images(part).T)
            return lambda rows: held[rows]
        normalizers = torch.cat([self._log_normalizers(part) for part in images.split(block_size)])
        return lambda rows: self._of_concepts(rows, images, normalizers)

    def _log_normalizers(self, images: Tensor) -> Tensor:
        if not self.softmax:
            return images.new_zeros(len(images))
        return torch.logsumexp((images @ self.texts.T).div_(self.temperature), dim=1)

    def _of_concepts(self, rows: slice, images: Tensor, normalizers: Tensor) -> Tensor:
        logits = (self.texts[rows] @ images.T).div_(self.temperature)
        return logits.sub_(normalizers).exp_() if self.softmax else logits


def unit_texts(text_features: Any, concept_names: Sequence[str]) -> Tensor:
    """Concept features `[C, d]` as float64 unit rows; errors name the concept."""
    texts, concept_names = _as_rows(text_features, "text_features"), as_texts(concept_names, "concept_names")
    if len(texts) != len(concept_names):
        raise ClipAlignError(
            f"{len(concept_names)} concept names but {len(texts)} text features: give one feature for each name."
        )
    if len(texts) < 2:
        raise ClipAlignError("one concept alone tells nothing apart: give a dictionary of at least two.")
    return _unit(texts, lambda row: f"text feature {row} (concept {concept_names[row]!r})")


def image_blocks(image_features: Any, texts: Tensor, size: int) -> Iterator[Tensor]:
    """Image features as blocks of at most `size` float64 unit rows on the device of `texts`; errors name the row."""
    first = 0
    for given in _given_blocks(image_features, size):
        block = _as_rows(given, "image_features")
        if block.shape[1] != texts.shape[1]:
            raise ClipAlignError(
                f"image features have dimension {block.shape[1]}, text features {texts.shape[1]}: take both after the "
                "projectors of one model (its shared space)."
            )
        for part in block.split(size):
            yield _unit(part, lambda row, first=first: f"image feature {first + row}", texts.device)
            first += len(part)


def _given_blocks(image_features: Any, size: int) -> Iterable[Any]:
    """The caller's matrix in slices (so that a file mapped into memory is read block by block), or the blocks."""
    if isinstance(image_features, (list, tuple)) and not all(np.ndim(part) == 2 for part in image_features):
        image_features = np.asarray(image_features)
    if isinstance(image_features, (Tensor, np.ndarray)):
        if image_features.ndim != 2:
            shape = tuple(image_features.shape)
            raise ClipAlignError(f"image_features must be a matrix [N, d] or blocks of it, got the shape {shape}.")
        return (image_features[first : first + size] for first in range(0, len(image_features), size))
    if not isinstance(image_features, Iterable):
        kind = type(image_features).__name__
        raise ClipAlignError(f"image_features must be a matrix [N, d] or blocks of it, got {kind}.")
    return image_features


def finite_rows(values: Any, name: str) -> Tensor:
    """`values` as a matrix `[N, d]`; an error names its first rows that hold NaN or infinite values."""
    rows = _as_rows(values, name)
    check_finite(rows, name)
    return rows


def nonzero_rows(values: Any, name: str) -> Tensor:
    """As `finite_rows`; rows of zeros are errors, too."""
    rows = finite_rows(values, name)
    _refuse(_numbers((rows == 0).all(dim=1)), "zero", lambda row: f"row {row} of {name}")
    return rows


def _as_rows(values: Any, name: str) -> Tensor:
    rows = as_numbers(values, name, "a matrix of numbers [rows, d]")
    if rows.ndim != 2 or rows.dtype == torch.bool:
        raise ClipAlignError(f"{name} must be a matrix of numbers [rows, d], got shape {tuple(rows.shape)}.")
    return rows


def _unit(rows: Tensor, describe: Any, device: torch.device | None = None) -> Tensor:
    device = rows.device if device is None else device
    rows = rows.to("cpu" if device.type == "mps" else device, torch.float64)  # mps has no float64
    _refuse(not_finite_rows(rows), "NaN or infinite", describe)
    _refuse(_numbers((rows == 0).all(dim=1)), "zero", describe)
    if rows.shape[1] > 1:
        _refuse(_numbers((rows == rows[:, :1]).all(dim=1)), "constant (all its numbers are equal)", describe)
    return unit_rows(rows, torch.float64)


def _numbers(chosen: Tensor) -> list[int]:
    return chosen.nonzero().flatten().tolist()


def _refuse(indices: list[int], problem: str, describe: Any) -> None:
    if indices:
        named = ", ".join(describe(index) for index in indices[:_SHOWN])
        more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
        verb = "is" if len(indices) == 1 else "are"
        raise ClipAlignError(f"{named}{more} {verb} {problem}: remove it, or make its feature again.")
