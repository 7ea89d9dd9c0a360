"""Texts with names and labels, as `ImageSource` is for images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.source import as_names, check_lengths, digest
from hf_clipalign.data.labels.columns import class_labels


@dataclass
class TextSource:
    """Texts, their names and, where known, their labels.

    All sequences (lists, arrays, tensors, columns of pandas, polars or datasets) are read by position, whatever
    their index says.

    Args:
        texts (`Sequence[str]`): M texts.
        ids (`Sequence[str]`, *optional*, defaults to row numbers): M unique names.
        labels (array `[M]`, *optional*):
            texts of one image or class share a label: integers, or names, which are then numbered in sorted order.
        class_names (`Sequence[str]`, *optional*): what the labels mean.
        name (`str`, *optional*, defaults to `"texts"`): what errors call the source.

    Raises:
        `ClipAlignError`: if there are no texts, an entry is not a text, a sequence has another length, is a single
            string or has no order, or labels are neither all integers nor all names.

    Example:
        ```python
        >>> from hf_clipalign.data import TextSource
        >>> source = TextSource(["a cat", "a dog"], labels=["cat", "dog"])
        >>> source.labels, source.class_names
        (array([0, 1]), ['cat', 'dog'])
        ```
    """

    texts: list[str]
    ids: list[str] | None = None
    labels: Any = None
    class_names: list[str] | None = None
    name: str = "texts"

    def __post_init__(self) -> None:
        self.texts = as_texts(self.texts, self.name)
        if not self.texts:
            raise ClipAlignError(f"{self.name}: there are no texts; give at least one")
        self.ids = None if self.ids is None else as_names(self.ids, f"{self.name}: ids")
        self.class_names = (
            None if self.class_names is None else as_texts(self.class_names, f"{self.name}: class_names")
        )
        if self.labels is not None:
            self.labels, self.class_names = class_labels(self.labels, self.class_names, f"{self.name}: labels")
        check_lengths(self.name, "texts", self.texts, ids=self.ids, labels=self.labels)

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        """Identifies texts, names and labels, to key caches."""
        labels = [] if self.labels is None else map(str, np.asarray(self.labels).tolist())
        return digest(self.texts, self.ids or [], labels, self.class_names or [])
