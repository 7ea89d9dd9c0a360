"""Random resized crop and flip with Pillow, reproducible from seed, epoch and image."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def view_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random numbers of one image in one epoch: the same in every worker, process and resumed run."""
    return np.random.default_rng((seed, epoch, index))


def random_view(
    size: tuple[int, int], generator: np.random.Generator, scale: float = 0.08
) -> tuple[tuple[int, int, int, int], bool]:
    """Draws a crop box and a flip.

    Args:
        size (`tuple[int, int]`): width and height of the image.
        generator (`np.random.Generator`): see `view_generator`.
        scale (`float`, *optional*, defaults to `0.08`): smallest share of the area that is kept; the largest is 1.

    Returns:
        The box (left, top, right, bottom), its sides in a ratio from 3:4 to 4:3, and whether to flip it.
    """
    width, height = size
    flip = bool(generator.random() < 0.5)
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(scale, 1.0)
        ratio = math.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
            return (left, top, left + w, top + h), flip
    side_w, side_h = min(width, max(1, round(height * _RATIO[1]))), min(height, max(1, round(width / _RATIO[0])))
    left, top = (width - side_w) // 2, (height - side_h) // 2
    return (left, top, left + side_w, top + side_h), flip


def crop_and_resize(image: Image.Image, box: tuple[int, int, int, int], flip: bool, side: int) -> Image.Image:
    """The box of an image as a square of `side` pixels, bicubic; mirrored if `flip`."""
    square = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else square
