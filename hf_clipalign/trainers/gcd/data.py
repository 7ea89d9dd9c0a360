"""Two views of every image, and draws that balance labelled and unlabelled ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from hf_clipalign.data import GCDSplit
from hf_clipalign.data.images.augmentation import crop_and_resize
from hf_clipalign.trainers.images import ImagesByEpoch, pixel_values

Draw = tuple[int, int]
"""An image and the number of its draw within the epoch: an image that is drawn twice has other views."""


class GCDImages(ImagesByEpoch):
    """The images of a split as pairs of views: a square crop at a random place, mirrored half of the time.

    Args:
        split (`GCDSplit`): the images and their visible labels.
        image_processor (image processor): the student's; it normalises the views.
        image_size (`int`): side of the student's input, in pixels.
        crop_share (`float`, *optional*, defaults to `0.875`): side of the crop as a share of the shorter side.
        flip (`bool`, *optional*, defaults to `True`): mirror half of the views.
        seed (`int`, *optional*, defaults to `0`): of the views.
    """

    def __init__(
        self,
        split: GCDSplit,
        image_processor: Any,
        image_size: int,
        crop_share: float = 0.875,
        flip: bool = True,
        seed: int = 0,
    ):
        super().__init__(split.source, seed)
        self.labels = split.training_labels
        self.image_processor = image_processor
        self.image_size = image_size
        self.crop_share = crop_share
        self.flip = flip

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index, number = draw
        image = self.source.read(index)
        generator = np.random.default_rng((self.seed, int(self._epoch), index, number))
        squares = []
        for _ in range(2):
            box, flip = random_square(image.size, generator, self.crop_share)
            squares.append(crop_and_resize(image, box, flip and self.flip, self.image_size))
        first, second = pixel_values(self.image_processor, squares)
        return {"index": index, "labels": int(self.labels[index]), "view_1": first, "view_2": second}


def random_square(
    size: tuple[int, int], generator: np.random.Generator, share: float
) -> tuple[tuple[int, int, int, int], bool]:
    """Draws a square of `share` of the shorter side, anywhere in the image, and a flip.

    Args:
        size (`tuple[int, int]`): width and height of the image.
        generator (`np.random.Generator`): random numbers.
        share (`float`): side of the square as a share of the shorter side.

    Returns:
        The box (left, top, right, bottom) and whether to flip it.
    """
    width, height = size
    side = max(1, round(share * min(width, height)))
    left, top = int(generator.integers(width - side + 1)), int(generator.integers(height - side + 1))
    return (left, top, left + side, top + side), bool(generator.random() < 0.5)


class BalancedSampler(Sampler[Draw]):
    """Draws with replacement: labelled images with weight 1, unlabelled ones with |labelled| / |unlabelled|.

    One half of an epoch's draws is labelled on average. The draws depend on seed and epoch only, so every process
    makes the same ones, and so does a resumed run.

    Args:
        labelled (`np.ndarray [N]`, bool): which images have a label.
        seed (`int`): of the draws.
    """

    def __init__(self, labelled: np.ndarray, seed: int):
        n_labelled = int(labelled.sum())
        ratio = n_labelled / max(1, len(labelled) - n_labelled)
        weights = np.where(labelled, 1.0, ratio if n_labelled else 1.0)
        self.probabilities = weights / weights.sum()
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.probabilities)

    def set_epoch(self, epoch: int) -> None:
        """Makes the draws of another epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.default_rng((self.seed, self.epoch))
        rows = generator.choice(len(self), size=len(self), p=self.probabilities)
        return iter([(int(row), number) for number, row in enumerate(rows)])
