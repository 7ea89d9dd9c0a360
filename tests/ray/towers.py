"""Encoders that take a while, note what they compute, and fail or end their process where they are asked to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_clipalign.data import ImageSource
from tests.features.cheap_encoder import CheapEncoder, cheap_processor

WIDTH = 8


class NotingEncoder(CheapEncoder):
    """Features are the first pixels; every batch is noted in a file, a byte for each image.

    Args:
        notes (`str`): the file.
        seconds (`float`): how long an image takes.
        bad (`int`, *optional*): the first pixel of the image that cannot be computed.
    """

    def __init__(self, notes: str, seconds: float = 0.0, bad: int | None = None) -> None:
        torch.manual_seed(0)
        super().__init__(WIDTH)
        self.notes, self.seconds, self.bad = notes, seconds, bad

    def image_preprojection(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        with open(self.notes, "ab") as stream:
            stream.write(b"." * len(pixel_values))
        time.sleep(self.seconds * len(pixel_values))
        values = super().image_preprojection(pixel_values)
        if self.bad is not None and bool((values[:, 0] == self.bad).any()):
            raise RuntimeError(f"no feature of {self.bad}")
        return values


class SlowProcessor:
    """Pixels as they are, after a while: readers are at work as long as towers are."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self, images: list[np.ndarray], **kwargs: Any) -> dict[str, Tensor]:
        time.sleep(self.seconds * len(images))
        return cheap_processor(images)

    def to_dict(self) -> dict[str, Any]:
        """What the features depend on."""
        return {"pixels": "as they are"}


def n_computed(notes: Path) -> int:
    return notes.stat().st_size if notes.exists() else 0


def write_images(folder: Path, n: int) -> Path:
    """Images whose first pixel is their number; every 17th cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        file = folder / f"{number:04}.png"
        if number % 17 == 16:
            file.write_bytes(b"no image")
        else:
            Image.fromarray(np.full((6, 5, 3), number % 256, np.uint8)).save(file)
    return folder


class DeadlyImages:
    """Images in memory, of which one ends every process of Ray that reads it."""

    def __init__(self, n: int, deadly: int) -> None:
        self.n, self.deadly = n, deadly

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> np.ndarray:
        if row == self.deadly:
            os._exit(1)
        return np.full((6, 5, 3), row, np.uint8)


def deadly_source(n: int, deadly: int) -> ImageSource:
    names = [f"image {row}" for row in range(n)]
    return ImageSource(DeadlyImages(n, deadly), ids=names, name="deadly", fingerprint=lambda: "deadly")
