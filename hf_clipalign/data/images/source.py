"""The picklable class behind every source of images, and its fingerprints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from hf_clipalign.data.images.reader import read_image


class ImageSource:
    """Images with names and, where known, labels and captions. Picklable, so `DataLoader` workers can hold it.

    Build one with [`image_folder`], [`from_dataset`], [`from_table`] or [`open_source`].

    Args:
        items (sequence):
            One entry per image that [`read_image`] takes: a path, bytes, or a `{"bytes", "path"}` dict.
        ids (`list[str]`):
            Stable, unique name per image: its relative path, or its row number from 0.
        labels (`numpy.ndarray` of int64 `[N]`, *optional*):
            Class per image.
        class_names (`list[str]`, *optional*):
            Name per class; `labels` index into it. `None` when the labels were plain integers.
        texts (`list[list[str]]`, *optional*):
            Captions per image.
        name (`str`, defaults to `"source"`):
            What errors call the source.
        fingerprint (`Callable[[], str]`, *optional*):
            Computes the value of [`fingerprint`]; picklable. By default a hash of the items and everything else here.
    """

    def __init__(
        self,
        items: Any,
        *,
        ids: list[str],
        labels: np.ndarray | None = None,
        class_names: list[str] | None = None,
        texts: list[list[str]] | None = None,
        name: str = "source",
        fingerprint: Callable[[], str] | None = None,
    ) -> None:
        self.items = items
        self.ids = ids
        self.labels = labels
        self.class_names = class_names
        self.texts = texts
        self.name = name
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        classes = "no labels" if self.labels is None else f"{len(np.unique(self.labels))} classes"
        captions = "" if self.texts is None else f", {sum(map(len, self.texts))} texts"
        return f"ImageSource({self.name!r}, {len(self)} images, {classes}{captions})"

    def read(self, index: int) -> Image.Image:
        """Reads one image.

        Args:
            index (`int`): Position, 0 to `len(self) - 1`.

        Returns:
            `PIL.Image.Image`: mode RGB, see [`read_image`].

        Raises:
            [`ClipAlignError`]: if the image cannot be read; the message names it.
        """
        item = self.items[index]
        return read_image(item, name=None if isinstance(item, str) else f"{self.name}, row {self.ids[index]}")

    def fingerprint(self) -> str:
        """Identifies the content, to key caches: it changes when images are added, removed, reordered or edited.

        Folders hash names, sizes and modification times; data sets use the fingerprint of the datasets library;
        tables hash the columns in use, and names, sizes and times of the files that they list.

        Returns:
            `str`: hexadecimal digest, equal across processes.
        """
        if self._fingerprint is not None:
            return self._fingerprint()
        labels = [] if self.labels is None else self.labels.tolist()
        texts = [text for group in self.texts or [] for text in (str(len(group)), *group)]
        return digest(self.ids, _contents(self.items), map(str, labels), self.class_names or [], texts)


def _contents(items: Iterable[Any]) -> Iterator[str | bytes]:
    for item in items:
        value = item["bytes"] if isinstance(item, dict) else item
        yield value if isinstance(value, bytes) else f"{os.path.basename(value)} {file_state(value)}"


def file_state(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def digest(*groups: Iterable[str | bytes]) -> str:
    """Hashes lists of strings; lengths are hashed too, so that ["ab"] and ["a", "b"] differ."""
    digest = hashlib.sha256()
    for group in groups:
        for value in group:
            data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        digest.update(b"end of group")
    return digest.hexdigest()[:32]
