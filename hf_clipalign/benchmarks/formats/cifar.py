"""CIFAR-10 and CIFAR-100 in their binary version: labels and pixels in one file per batch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.formats.listing import Place, text_lines
from hf_clipalign.data import ImageSource
from hf_clipalign.data.images.source import digest

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


class PixelImages(Sequence[Any]):
    """Images that are made from their pixels when they are read, as `{"bytes", "path"}` with a PNG.

    Args:
        pixels (`np.ndarray [N, 3072]`): red, green and blue, each row by row.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Any) -> Any:
        planes = self.pixels[int(index)].reshape(3, _SIDE, _SIDE)
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(stream, "PNG", compress_level=1)
        return {"bytes": stream.getvalue(), "path": None}


def read_cifar(place: Place) -> dict[str, ImageSource]:
    """Records of label bytes and 3,072 bytes of pixels; CIFAR-100's first label byte is the coarse one, left out.

    Args:
        place (`Place`): with the file `classes`, and for each part one file (`test`) or several (`train 1`, …).
    """
    names = [name for _, name in text_lines(place.file("classes"))]
    batches: dict[str, list[np.ndarray]] = {}
    for role in (role for role in place.layout.files if role != "classes"):
        batches.setdefault(role.split()[0], []).append(_records(place.file(role), place.layout.classes, names))
    return {part: _source(np.concatenate(tables), place, part, names) for part, tables in batches.items()}


def _records(path: Path, classes: int, names: Sequence[str]) -> np.ndarray:
    """One row of the fine label and the pixels per image, `[N, 1 + 3072]`."""
    content = np.fromfile(path, dtype=np.uint8)
    labels = 1 if classes == 10 else 2
    if not len(content) or len(content) % (labels + _PIXELS):
        size = labels + _PIXELS
        raise ClipAlignError(
            f"{path}: {len(content):,} bytes are no whole number of records of {size:,}: download it again"
        )
    table = content.reshape(-1, labels + _PIXELS)[:, labels - 1 :]
    beyond = np.flatnonzero(table[:, 0] >= len(names))
    if len(beyond):
        row = int(beyond[0])
        raise ClipAlignError(f"{path}: record {row} (from 0) has class {table[row, 0]}, but {len(names)} have names")
    return table


def _source(table: np.ndarray, place: Place, part: str, names: Sequence[str]) -> ImageSource:
    ids = [f"{part}/{row}" for row in range(len(table))]
    key = digest([np.ascontiguousarray(table).tobytes()], names)
    labels, pixels = table[:, 0].astype(np.int64), PixelImages(table[:, 1:])
    title = f"{place.title}: {part}"
    return ImageSource(pixels, ids=ids, labels=labels, class_names=names, name=title, fingerprint=partial(str, key))
