"""Features of augmented views, so that heads and scores can be judged without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.data import ImageSource, TextSource, text_views
from hf_clipalign.data.images.views import view_source
from hf_clipalign.features.in_memory import extract_image_features, extract_text_features

STRENGTHS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class ViewFeatures:
    """Features before the projector of a sample of images or texts, and of their augmented views.

    Attributes:
        originals (`Tensor [n, w]`): of the sampled items.
        views (`Tensor [n, S, V, w]`): of V views of each at each of S strengths.
        strengths (`tuple[float, ...]`): S, ascending.
        rows (`np.ndarray [n]`): int64, positions of the sampled items in the source.
        modality (`"image"` or `"text"`): which tower they come from.

    Example:
        ```python
        >>> views = view_features(model, images, processor, n_items=6, strengths=(0.25, 0.5), progress=False)
        >>> views.originals.shape, views.views.shape
        (torch.Size([6, 128]), torch.Size([6, 2, 2, 128]))
        ```
    """

    originals: Tensor
    views: Tensor
    strengths: tuple[float, ...]
    rows: NDArray[np.int64]
    modality: Modality

    def __len__(self) -> int:
        return len(self.originals)


def view_features(
    model: Any,
    source: ImageSource | TextSource | Sequence[str],
    processor: Any,
    *,
    n_items: int = 500,
    strengths: Sequence[float] = STRENGTHS,
    n_views: int = 2,
    seed: int = 0,
    batch_size: int = 64,
    num_workers: int | None = None,
    progress: bool = True,
) -> ViewFeatures:
    """Runs a tower over a random sample of images or texts and over augmented views of them.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        source (`ImageSource`, `TextSource` or `Sequence[str]`): images or texts; labels are not looked at.
        processor (`ProcessorMixin`, image processor or tokenizer): the checkpoint's.
        n_items (`int`, *optional*, defaults to `500`): sampled items, all if there are fewer.
        strengths (`Sequence[float]`, *optional*, defaults to `(0.25, 0.5, 0.75)`): see `image_views`, `text_views`.
        n_views (`int`, *optional*, defaults to `2`): views of each item at each strength.
        seed (`int`, *optional*, defaults to `0`): of the sample and the views.
        batch_size (`int`, *optional*, defaults to `64`): items per pass.
        num_workers (`int`, *optional*): processes that read images, see `extract_image_features`.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `ViewFeatures`: without the images that cannot be read.

    Raises:
        `ClipAlignError`: nothing to sample from, no image can be read, a number out of range.

    Example:
        ```python
        >>> from hf_clipalign.features import view_features
        >>> views = view_features(model, ["a cat", "two dogs"], processor, progress=False)
        >>> views.views.shape
        torch.Size([2, 3, 2, 128])
        ```
    """
    check_integer("n_items", n_items)
    check_integer("n_views", n_views)
    ordered = tuple(sorted(strengths))
    if not ordered:
        raise ClipAlignError("no strengths were given: name at least one, such as (0.25, 0.5).")
    items = source if isinstance(source, (ImageSource, TextSource)) else TextSource(as_texts(source, "texts"))
    rows = np.sort(np.random.default_rng(seed).permutation(len(items))[:n_items])
    each = 1 + len(ordered) * n_views
    if isinstance(items, ImageSource):
        names = {name: place for place, name in enumerate(items.ids)}
        wanted = view_source(items, rows.tolist(), ordered, n_views, seed)
        found = extract_image_features(
            model, wanted, processor, batch_size=batch_size, num_workers=num_workers, progress=progress
        )
        values, rows = _complete(found.values, found.ids, names, each)
        modality: Modality = "image"
    else:
        texts = _with_views([items.texts[row] for row in rows], ordered, n_views, seed)
        values = extract_text_features(
            model, texts, processor, batch_size=batch_size, truncate=True, progress=progress
        ).values.view(len(rows), each, -1)
        modality = "text"
    views = values[:, 1:].reshape(len(rows), len(ordered), n_views, -1)
    return ViewFeatures(values[:, 0].contiguous(), views, ordered, rows, modality)


def _complete(values: Tensor, ids: list[str], places: dict[str, int], each: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Features `[n, each, w]` and positions of the images of which every view was made."""
    owners = np.array([places[name.rsplit("#", 1)[0]] for name in ids])
    rows, first, counts = np.unique(owners, return_index=True, return_counts=True)
    full = counts == each
    if not full.any():
        raise ClipAlignError(f"not all views of a single one of {len(rows)} images could be made: give other images.")
    index = torch.from_numpy(first[full][:, None] + np.arange(each))
    return values[index], rows[full]


def _with_views(texts: list[str], strengths: Sequence[float], n_views: int, seed: int) -> list[str]:
    copies = [text_views(texts, strength, seed + number) for strength in strengths for number in range(n_views)]
    return [text for group in zip(texts, *copies, strict=True) for text in group]
