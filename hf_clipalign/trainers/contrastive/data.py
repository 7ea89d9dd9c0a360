"""Images with their captions as `ContrastiveTrainer` takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import ImageSource
from hf_clipalign.data.images.augmentation import crop_and_resize, random_view, view_generator
from hf_clipalign.data.images.processing import process_images
from hf_clipalign.hub.export.common import processor_part
from hf_clipalign.trainers.images import ImagesByEpoch

Augmentation = Callable[[Image.Image, np.random.Generator], Image.Image]
"""A random view of an image, drawn with nothing but the given generator."""

_SHOWN = 3


class RandomCrop:
    """A random part of an image as a square; one of the augmentations.

    Args:
        side (`int`): of the square, in pixels.
        scale (`float`, *optional*, defaults to `0.5`): smallest share of the image's area.
        flip (`bool`, *optional*, defaults to `False`): mirror half of the views.
    """

    def __init__(self, side: int, scale: float = 0.5, flip: bool = False):
        self.side, self.scale, self.flip = side, scale, flip

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        box, flip = random_view(image.size, generator, self.scale)
        return crop_and_resize(image, box, flip and self.flip, self.side)


class ImageTextPairs(ImagesByEpoch):
    """A source of captioned images as a data set of pairs.

    What an image gives depends on the seed, the epoch and the image only: it is the same in every worker, process
    and resumed run.

    Args:
        source (`ImageSource`): the images, with one caption or more each.
        processor (`ProcessorMixin` or image processor): the model's.
        augmentation (`Augmentation`, *optional*): makes a random view. Default: the image as it is.
        two_views (`bool`, *optional*, defaults to `False`): also a second view of each image.
        captions (`str`, *optional*, defaults to `"random"`): "random" (one for each epoch), "first" or "all".
        positives (`str`, *optional*, defaults to `"image"`): what gives two images the same group: "image" (nothing)
            or "label".
        seed (`int`, *optional*, defaults to `0`): of views and captions.

    Raises:
        `ClipAlignError`: images without a caption, or without labels where they are needed.

    Example:
        ```python
        >>> from hf_clipalign.data import open_source, with_captions
        >>> from hf_clipalign.trainers import ImageTextPairs
        >>> pairs = ImageTextPairs(with_captions(open_source("pairs"), ["a cat", "a dog"]), processor)
        >>> pairs[1]["captions"]
        ['a dog']
        ```
    """

    def __init__(
        self,
        source: ImageSource,
        processor: Any,
        augmentation: Augmentation | None = None,
        two_views: bool = False,
        captions: str = "random",
        positives: str = "image",
        seed: int = 0,
    ):
        _check_captions(source)
        if positives == "label" and source.labels is None:
            raise ClipAlignError(f"{source.name}: no labels, but positives is 'label': label the images")
        super().__init__(source, seed)
        self.image_processor = processor_part(processor, "image_processor", "image processor")
        self.augmentation = augmentation
        self.two_views = two_views
        self.captions = captions
        self.positives = positives

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        generator = view_generator(self.seed, int(self._epoch), index)
        captions = self._captions(index, generator)
        image = self.source.read(index)
        item = {"images": self._view(image, generator), "captions": captions, "group": self._group(index)}
        return {**item, "second_views": self._view(image, generator)} if self.two_views else item

    def _captions(self, index: int, generator: np.random.Generator) -> list[str]:
        known = self.source.texts[index]  # type: ignore[index]
        if self.captions == "all":
            return known
        return [known[int(generator.integers(len(known)))] if self.captions == "random" else known[0]]

    def _group(self, index: int) -> int:
        return index if self.positives == "image" else int(self.source.labels[index])  # type: ignore[index]

    def _view(self, image: Image.Image, generator: np.random.Generator) -> dict[str, Tensor]:
        view = image if self.augmentation is None else self.augmentation(image, generator)
        batch = process_images(self.image_processor, [view]) or {}
        return {name: value[0] for name, value in batch.items() if isinstance(value, Tensor)}


def collate_pairs(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks pairs.

    Args:
        items (`Sequence[dict]`): N images: `images` (and `second_views`), inputs of the image tower; `captions`, one
            or more texts; `group`, a number.

    Returns:
        `dict`: `images` (and `second_views`): inputs of the image tower; `captions`: M texts; `image_groups [N]` and
        `text_groups [M]`: images and texts of the same group belong together.

    Example:
        ```python
        >>> from hf_clipalign.data import open_source, with_captions
        >>> from hf_clipalign.trainers import ImageTextPairs, collate_pairs
        >>> pairs = ImageTextPairs(with_captions(open_source("pairs"), ["a cat", "a dog"]), processor)
        >>> batch = collate_pairs([pairs[0], pairs[1]])
        >>> batch["captions"], batch["images"]["pixel_values"].shape
        (['a cat', 'a dog'], torch.Size([2, 3, 48, 48]))
        ```
    """
    counts = torch.tensor([len(item["captions"]) for item in items])
    groups = torch.tensor([item["group"] for item in items])
    batch: dict[str, Any] = {
        part: {name: torch.stack([item[part][name] for item in items]) for name in items[0][part]}
        for part in ("images", "second_views")
        if part in items[0]
    }
    texts = {"captions": [caption for item in items for caption in item["captions"]]}
    return {**batch, **texts, "image_groups": groups, "text_groups": groups.repeat_interleave(counts)}


def _check_captions(source: ImageSource) -> None:
    if source.texts is None:
        raise ClipAlignError(
            f"{source.name}: the images have no captions. Name their column with text_column, or add them with "
            "with_captions"
        )
    blank = [row for row, texts in enumerate(source.texts) if not texts or not all(text.strip() for text in texts)]
    if blank:
        shown = ", ".join(str(source.ids[row]) for row in blank[:_SHOWN]) + (", …" if len(blank) > _SHOWN else "")
        raise ClipAlignError(
            f"{source.name}: {len(blank)} of {len(source)} images have no caption or a blank one ({shown}): write "
            "one, or leave these images out"
        )
