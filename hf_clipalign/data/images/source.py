"""The picklable class behind every source of images, and its fingerprints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
from PIL import Image

from hf_clipalign._checks.sequences import as_list
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.reader import read_image
from hf_clipalign.data.labels.columns import class_labels, read_texts


class ImageSource:
    """Images with names and, where known, labels and captions. Picklable, so `DataLoader` workers can hold it.

    Build one with `image_folder`, `from_dataset`, `from_table` or `open_source`.

    Args:
        items (`Sequence`):
            one entry per image that `read_image` takes: a path, bytes, or a `{"bytes", "path"}` dict.
        ids (`Sequence[str]`):
            stable, unique name per image: its relative path, or its row number from 0.
        labels (array `[N]`, *optional*):
            class per image: integers, or names, which are then numbered in sorted order.
        class_names (`Sequence[str]`, *optional*):
            name per class; `labels` index into it. `None` when the labels were plain integers.
        texts (`Sequence[str | Sequence[str]]`, *optional*):
            captions per image.
        name (`str`, *optional*, defaults to `"source"`):
            what errors call the source.
        fingerprint (`Callable[[], str]`, *optional*):
            computes the value of `fingerprint`; picklable. By default a hash of the items and
            everything else here.

    All sequences (lists, arrays, tensors, columns of pandas, polars or datasets) are read by position, whatever
    their index says.

    Raises:
        `ClipAlignError`: if a sequence has another length than `ids`, is a single string or has no order, or if
            labels are neither all integers nor all names.

    Example:
        ```python
        >>> from hf_clipalign.data import ImageSource
        >>> ImageSource(["photos/cat/1.jpg", "photos/dog/1.jpg"], ids=["a", "b"], labels=["cat", "dog"])
        ImageSource('source', 2 images, 2 classes)
        ```
    """

    def __init__(
        self,
        items: Any,
        *,
        ids: Iterable[str],
        labels: Any = None,
        class_names: Iterable[str] | None = None,
        texts: Iterable[str | Iterable[str]] | None = None,
        name: str = "source",
        fingerprint: Callable[[], str] | None = None,
    ) -> None:
        self.name = name
        self.items = _by_position(items, f"{name}: items")
        self.ids = as_names(ids, f"{name}: ids")
        self.class_names = None if class_names is None else as_texts(class_names, f"{name}: class_names")
        self.labels: np.ndarray | None = None
        if labels is not None:
            self.labels, self.class_names = class_labels(labels, self.class_names, f"{name}: labels")
        self.texts = None if texts is None else read_texts(as_list(texts, f"{name}: texts"), "texts", name)
        self._fingerprint = fingerprint
        check_lengths(name, "ids", self.ids, items=self.items, labels=self.labels, texts=self.texts)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        classes = "no labels" if self.labels is None else f"{len(np.unique(self.labels))} classes"
        captions = "" if self.texts is None else f", {sum(map(len, self.texts))} texts"
        return f"ImageSource({self.name!r}, {len(self)} images, {classes}{captions})"

    def read(self, index: int) -> Image.Image:
        """Reads one image.

        Args:
            index (`int`): position, 0 to `len(self) - 1`.

        Returns:
            `PIL.Image.Image`: mode RGB, see `read_image`.

        Raises:
            `ClipAlignError`: if the image cannot be read; the message names it.
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


def as_names(values: Iterable[Any], what: str) -> list[str]:
    """Names by position, as texts: numbers are written out."""
    return [value if isinstance(value, str) else str(value) for value in as_list(values, what)]


def check_lengths(name: str, first: str, wanted: Sized, **others: Sized | None) -> None:
    """Refuses sequences of another length than the first one; `None` has no length."""
    for what, values in others.items():
        if values is not None and len(values) != len(wanted):
            raise ClipAlignError(f"{name}: {len(wanted)} {first} but {len(values)} {what}; give one for each")


def _by_position(items: Any, what: str) -> Any:
    """Columns of tables and whatever has no order of its own as a list; sequences that read when asked stay."""
    is_column = hasattr(items, "to_list") or hasattr(items, "to_pylist")
    is_sequence = hasattr(items, "__getitem__") and hasattr(items, "__len__")
    keep = is_sequence and not is_column and not isinstance(items, (str, bytes, Mapping))
    return items if keep else as_list(items, what)


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
