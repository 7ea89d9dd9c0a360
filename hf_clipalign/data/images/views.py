"""Augmented views of images with Pillow: the same image again, as strongly changed as asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._checks.sequences import as_positions
from hf_clipalign.data.images.augmentation import crop_and_resize, random_view
from hf_clipalign.data.images.source import ImageSource

# what a view of strength 1 may do; a weaker one does that share of it
_CROPPED_AWAY = 0.75
_DEGREES = 40.0
_JITTER = 0.8
_HUE = 128
_GREY, _INVERTED = 0.4, 0.4
_MOST_PIXELS = 384
"""Side of a view: no image tower of today looks at more of a crop."""


def image_views(images: Iterable[Image.Image], strength: float, seed: int = 0) -> list[Image.Image]:
    """One augmented view of each image: crop, rotation, brightness, contrast, colour, hue; some are grey or inverted.

    What is drawn for an image depends on the seed and its place only: a stronger view of it does the same things to a
    larger extent.

    Args:
        images (iterable of `PIL.Image.Image`): RGB images.
        strength (`float`): above 0, at most 1. At 1 up to three quarters of the image are cut away, it is turned by up
            to 40 degrees, its colours are changed by up to 80 %, its hues at will, and two of five views are grey, two
            of five inverted; at 0.5 half of all that.
        seed (`int`, *optional*, defaults to `0`): another seed draws other views.

    Returns:
        `list[PIL.Image.Image]`: RGB squares with the side of the longer side of the image, at most 384.

    Raises:
        `ClipAlignError`: a strength out of range.

    Example:
        ```python
        >>> from hf_clipalign.data import image_views, read_image
        >>> [view.size for view in image_views([read_image("photos/cat/1.png")], strength=0.5)]
        [(64, 64)]
        ```
    """
    _check_strength(strength)
    return [augmented(image, strength, (seed, place)) for place, image in enumerate(images)]


def augmented(image: Image.Image, strength: float, key: Sequence[int]) -> Image.Image:
    """One view of one image; the numbers of `key` decide what is drawn."""
    generator = np.random.default_rng(tuple(key))
    draws = generator.uniform(-1, 1, size=5)
    chances = generator.random(2)
    box, _ = random_view(image.size, generator, 1 - _CROPPED_AWAY * strength)
    view = crop_and_resize(image.convert("RGB"), box, False, min(_MOST_PIXELS, max(image.size)))
    degrees = draws[0] * strength * _DEGREES
    view = view.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=_border_colour(view))
    colours = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhance, draw in zip(colours, draws[1:4], strict=True):
        view = enhance(view).enhance(1 + draw * strength * _JITTER)
    view = _turned_hue(view, round(draws[4] * strength * _HUE))
    if chances[0] < strength * _GREY:
        view = ImageOps.grayscale(view).convert("RGB")
    return ImageOps.invert(view) if chances[1] < strength * _INVERTED else view


def view_source(
    source: ImageSource, rows: Sequence[int], strengths: Sequence[float], n_views: int = 2, seed: int = 0
) -> ImageSource:
    """Some images of a source, each followed by its views: for each strength in turn, `n_views` of them.

    Args:
        source (`ImageSource`): the images.
        rows (`Sequence[int]`): R positions in it.
        strengths (`Sequence[float]`): S strengths, see `image_views`.
        n_views (`int`, *optional*, defaults to `2`): views of a strength for each image.
        seed (`int`, *optional*, defaults to `0`): of the views. They do not depend on which other rows are given.

    Returns:
        `ImageSource`: R (1 + S n_views) images, without labels. In that order, each image is read once.

    Raises:
        `ClipAlignError`: a strength out of range, no views, a row that is not there.

    Example:
        ```python
        >>> from hf_clipalign.data import open_source
        >>> from hf_clipalign.data.images.views import view_source
        >>> view_source(open_source("photos"), rows=[0, 5], strengths=[0.25, 0.5])
        ImageSource('photos', 10 images, no labels)
        ```
    """
    for strength in strengths:
        _check_strength(strength)
    positions = as_positions(rows, len(source), "rows")
    each = [
        None,
        *((strength, number) for strength in strengths for number in range(check_integer("n_views", n_views))),
    ]
    ids = [f"{source.ids[row]}#{place}" for row in positions for place in range(len(each))]
    return ImageSource(_ViewItems(source, positions, each, seed), ids=ids, name=source.name)


class _ViewItems(Sequence):
    """Images and their views, made when asked for; the image that was read last is kept."""

    def __init__(self, source: ImageSource, rows: np.ndarray, each: list[tuple[float, int] | None], seed: int) -> None:
        self.source, self.rows, self.each, self.seed = source, rows, each, seed
        self._last: tuple[int, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.rows) * len(self.each)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        row, wanted = int(self.rows[place // len(self.each)]), self.each[place % len(self.each)]
        if self._last is None or self._last[0] != row:
            self._last = row, self.source.read(row)
        image = self._last[1]
        if wanted is None:
            return image
        strength, number = wanted
        return augmented(image, strength, (self.seed, row, number))


def _check_strength(strength: float) -> None:
    check_number("strength", strength, "a number above 0, at most 1", above=0, most=1)


def _border_colour(image: Image.Image) -> tuple[int, int, int]:
    """The median colour of the outermost pixels, to fill the corners of a turned image with."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = np.median(border, axis=0)
    return int(red), int(green), int(blue)


def _turned_hue(image: Image.Image, steps: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
