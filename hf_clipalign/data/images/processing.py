"""Images through a checkpoint's image processor in bounded memory, with the pixels that the processor alone makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_clipalign._errors import ClipAlignError

_BLOCK_BYTES = 2**26
"""How much of a batch is held decoded at once, unless a single image is larger."""
_LARGE_PIXELS = 2**22
"""Larger images are resized before they are copied."""
_MOST_RESIZED_PIXELS = 2**24
"""Larger results of a resize are never made: of them only what the crop keeps."""
_FILTER_REACH = 4
"""How far from its place a resized pixel looks, in pixels of the coarser grid; Lanczos needs 3."""


def process_images(image_processor: Any, images: Iterable[Image.Image]) -> dict[str, Any] | None:
    """The inputs of an image tower; of the images no more than 64 MiB, or one, are held at a time.

    Args:
        image_processor (`BaseImageProcessor` or callable): the checkpoint's.
        images (iterable of `PIL.Image.Image`): RGB images, best one after the other from a generator.

    Returns:
        `dict[str, Tensor]`: what the processor returns for all images in one batch; `None` if there is no image.

    Raises:
        `ClipAlignError`: as `reduce_image`.

    Example:
        ```python
        >>> from hf_clipalign.data import load_mini, read_image
        >>> from hf_clipalign.data.images.processing import process_images
        >>> mini = load_mini()
        >>> images = (read_image(mini.emoji[row]["image"]) for row in range(3))
        >>> process_images(mini.student_processor.image_processor, images)["pixel_values"].shape
        torch.Size([3, 3, 48, 48])
        ```
    """
    reduced = (reduce_image(image, image_processor) for image in images)
    # arrays with a stated layout: an image one pixel wide or high has no layout that could be guessed
    blocks = [
        dict(image_processor(images=block, input_data_format="channels_last", return_tensors="pt"))
        for block in _blocks(np.asarray(image) for image in reduced)
    ]
    if len(blocks) < 2:
        return blocks[0] if blocks else None
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def reduce_image(image: Image.Image, image_processor: Any) -> Image.Image:
    """What an image processor makes the same pixels of, and smaller where the image or its resized form is large.

    Where the resize alone would make more than 16 million pixels of a very long image, only the part that the centre
    crop keeps is made: the same pixels, but for one grey level in a few of them.

    Args:
        image (`PIL.Image.Image`): mode RGB.
        image_processor (`BaseImageProcessor` or callable): its `size`, `resample` and `crop_size` are looked at.

    Returns:
        `PIL.Image.Image`: the image itself, or a smaller one.

    Raises:
        `ClipAlignError`: if the image is too long for a processor that does not crop.
    """
    size = _resized_size(image_processor, image.size)
    if size is None:
        return image
    if size[0] * size[1] > _MOST_RESIZED_PIXELS:
        return _centre(image, size, image_processor)
    is_large = image.width * image.height > max(_LARGE_PIXELS, size[0] * size[1])
    resample = getattr(image_processor, "resample", None)
    if is_large and _resizes_with_pil(image_processor) and isinstance(resample, int):
        return image.resize(size, Image.Resampling(resample))
    return image


def _resizes_with_pil(image_processor: Any) -> bool:
    """The first 5.x releases of transformers say `is_fast` where later ones name the backend."""
    backend = getattr(image_processor, "backend", None)
    return backend == "pil" if backend else getattr(image_processor, "is_fast", None) is False


def _resized_size(image_processor: Any, size: tuple[int, int]) -> tuple[int, int] | None:
    """Width and height after the processor's resize, or None where it has none that is known."""
    wanted = getattr(image_processor, "size", None)
    if not getattr(image_processor, "do_resize", False) or wanted is None:
        return None
    if (edge := _part(wanted, "shortest_edge")) and not _part(wanted, "longest_edge"):
        long = int(edge * max(size) / min(size))
        return (edge, long) if size[0] <= size[1] else (long, edge)
    height, width = _part(wanted, "height"), _part(wanted, "width")
    return (width, height) if height and width else None


def _centre(image: Image.Image, size: tuple[int, int], image_processor: Any) -> Image.Image:
    """The middle of a long image as it is after the resize, a little more than the crop keeps."""
    along = 0 if size[0] > size[1] else 1
    crop = getattr(image_processor, "crop_size", None)
    kept = _part(crop, ("width", "height")[along]) if getattr(image_processor, "do_center_crop", False) else None
    if not kept:
        raise ClipAlignError(
            f"an image of {image.width} x {image.height} pixels becomes one of {size[0]} x {size[1]}, which is too "
            "much for memory; crop it to its main part"
        )
    length = max(size[1 - along], kept)
    length += (length - kept) % 2  # so that the middle of the part is the middle of the whole
    scale = image.size[along] / size[along]
    start = (size[along] - length) // 2
    ends = start * scale, (start + length) * scale
    margin = _FILTER_REACH * max(scale, 1.0)
    first, last = max(0, int(ends[0] - margin)), min(image.size[along], int(ends[1] + margin) + 1)
    part = image.crop((first, 0, last, image.height) if along == 0 else (0, first, image.width, last))
    near = ends[0] - first, ends[1] - first
    box = (near[0], 0, near[1], part.height) if along == 0 else (0, near[0], part.width, near[1])
    target = (length, size[1]) if along == 0 else (size[0], length)
    return part.resize(target, _filter(image_processor), box=box)


def _filter(image_processor: Any) -> Image.Resampling:
    resample = getattr(image_processor, "resample", None)
    return Image.Resampling(resample) if isinstance(resample, int) else Image.Resampling.BICUBIC


def _part(size: Any, name: str) -> int | None:
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)


def _blocks(arrays: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Arrays in their order, in lists that together are not over the budget, or single."""
    block: list[np.ndarray] = []
    for array in arrays:
        if block and sum(held.nbytes for held in block) + array.nbytes > _BLOCK_BYTES:
            yield block
            block = []
        block.append(array)
    if block:
        yield block
