"""Folders of small images for the index, and what an index says about them in a form that can be compared."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from hf_clipalign.search import ImageIndex

LONG_AGO = 1_000_000_000


def write_image(path: Path, number: int) -> Path:
    """A small image that is another one for every number, written long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12 + number % 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def write_images(folder: Path, n: int, first: int = 0) -> None:
    for number in range(first, first + n):
        write_image(folder / f"{'abc'[number % 3]}" / f"{number:03d}.png", number)


def begin(root: Path, path: Path, checkpoint: str, **options) -> ImageIndex:
    return ImageIndex.create(root, checkpoint, path, **({"shard_size": 4} | options))


def update(index: ImageIndex, **options):
    return index.update(progress=False, batch_size=2, **options)


def contents(index: ImageIndex) -> dict[str, bytes]:
    """The stored features of every file, by its path; and that the file's content is what was embedded."""
    features = index.features()
    values = features.read(0, len(features))
    files = index.files
    assert sorted(set(files.images.tolist())) == list(range(len(index)))
    return {files.path(i): values[files.images[i]].tobytes() for i in range(len(files))}
