"""Images as the trainers take them: read, augmented, processed for the model and for its teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import ImageSource, from_dataset
from hf_clipalign.data.images.augmentation import crop_and_resize, random_view, view_generator
from hf_clipalign.data.images.processing import process_images
from hf_clipalign.data.splits.subsets import take

logger = logging.getLogger(__name__)

TEACHER_PREFIX = "teacher_"
_SHOWN = 3


class ImagesByEpoch(Dataset):
    """Images that look different in every epoch.

    Args:
        source (`ImageSource`): the images.
        seed (`int`): of what is drawn for them.
    """

    def __init__(self, source: ImageSource, seed: int):
        self.source = source
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """Gives the images what is drawn for another epoch; running workers see it too."""
        self._epoch.fill_(epoch)


class PromptImages(ImagesByEpoch):
    """A source of images as a data set of model inputs.

    The student and the teacher see the same view of an image, each at its own size and with its own normalisation.

    Args:
        source (`ImageSource` or `datasets.Dataset`): the images.
        processor (`ProcessorMixin` or image processor): the student's.
        image_size (`int`): side of the student's input, in pixels.
        teacher_processor (`ProcessorMixin` or image processor, *optional*): the teacher's; its images are then given
            as `teacher_pixel_values`.
        teacher_image_size (`int`, *optional*): side of the teacher's input.
        augment (`bool`): random resized crop and flip. Default False: the processors' own resize and crop.
        crop_scale (`float`, *optional*, defaults to `0.08`): smallest share of the area in a crop.
        seed (`int`, *optional*, defaults to `0`): of the augmentation.

    Raises:
        `ClipAlignError`: the images are none, or not in a form that can be read.

    Example:
        ```python
        >>> from hf_clipalign.trainers import PromptImages
        >>> PromptImages(images, processor, image_size=48)[0]["pixel_values"].shape
        torch.Size([3, 48, 48])
        ```
    """

    def __init__(
        self,
        source: Any,
        processor: Any,
        image_size: int,
        teacher_processor: Any = None,
        teacher_image_size: int | None = None,
        augment: bool = False,
        crop_scale: float = 0.08,
        seed: int = 0,
    ):
        super().__init__(source if isinstance(source, ImageSource) else from_dataset(source), seed)
        self.sides = [("", _image_processor(processor), image_size)]
        if teacher_processor is not None:
            self.sides.append(
                (TEACHER_PREFIX, _image_processor(teacher_processor), int(teacher_image_size or image_size))
            )
        self.augment = augment
        self.crop_scale = crop_scale

    @property
    def class_names(self) -> list[str] | None:
        """Names of the source's classes."""
        return self.source.class_names

    @property
    def has_labels(self) -> bool:
        """Whether every image has a class."""
        return self.source.labels is not None

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        image = self.source.read(index)
        item: dict[str, Any] = {"index": index}
        if self.source.labels is not None:
            item["labels"] = int(self.source.labels[index])
        views = [image] * len(self.sides)
        if self.augment:
            generator = view_generator(self.seed, int(self._epoch), index)
            box, flip = random_view(image.size, generator, self.crop_scale)
            views = [crop_and_resize(image, box, flip, side) for _, _, side in self.sides]
        for (prefix, processor, _), view in zip(self.sides, views, strict=True):
            item[f"{prefix}pixel_values"] = pixel_values(processor, [view])[0]
        return item


def holds_images(dataset: Any, model_input: str) -> bool:
    """True for images that are still to be read, False for none and for model inputs: dicts with `model_input`.

    Raises:
        `ClipAlignError`: a path or a name, or a list of something else.
    """
    if isinstance(dataset, (str, Path)):
        raise ClipAlignError(f"the data set is {str(dataset)!r}: open it first, for example with open_source")
    if isinstance(dataset, ImageSource) or type(dataset).__module__.startswith("datasets."):
        return True
    if isinstance(dataset, (list, tuple)) and not all(isinstance(i, Mapping) and model_input in i for i in dataset):
        raise ClipAlignError(
            f"the data set is a {type(dataset).__name__} of items without {model_input}: give an ImageSource, a "
            "datasets.Dataset, or model inputs"
        )
    return False


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Stacks items: tensors as they are, numbers as a `LongTensor`."""
    return {
        name: torch.stack([item[name] for item in items])
        if isinstance(value, Tensor)
        else torch.tensor([item[name] for item in items])
        for name, value in items[0].items()
    }


def pixel_values(image_processor: Any, images: Sequence[Any]) -> Tensor:
    """Images as the model takes them, `[N, 3, H, W]`."""
    inputs = process_images(image_processor, images)
    assert inputs is not None
    return inputs["pixel_values"]


def drop_unreadable(source: ImageSource) -> ImageSource:
    """The source without the images that cannot be read; they are counted and named in a warning.

    Raises:
        `ClipAlignError`: no image can be read.
    """
    failures: dict[int, str] = {}
    for row in range(len(source)):
        try:
            source.read(row)
        except ClipAlignError as error:
            failures[row] = str(error)
    if not failures:
        return source
    reasons = "; ".join(list(failures.values())[:_SHOWN])
    if len(failures) == len(source):
        raise ClipAlignError(f"none of the {len(source)} images of {source.name} can be read: {reasons}")
    more = "" if len(failures) <= _SHOWN else f"; and {len(failures) - _SHOWN} more"
    logger.warning("skipping %d of %d images of %s: %s%s", len(failures), len(source), source.name, reasons, more)
    return take(source, [row for row in range(len(source)) if row not in failures])


def _image_processor(processor: Any) -> Any:
    return getattr(processor, "image_processor", processor)
