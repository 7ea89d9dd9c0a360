"""Texts with names and labels, as [`ImageSource`] is for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.source import digest


@dataclass
class TextSource:
    """Texts, their names and, where known, their labels.

    Args:
        texts (`Sequence[str]`): M texts.
        ids (`list[str]`, *optional*): M unique names. By default row numbers.
        labels (`numpy.ndarray` of int64 `[M]`, *optional*): texts of one image or class share a label.
        class_names (`list[str]`, *optional*): what the labels mean.
        name (`str`, defaults to `"texts"`): what errors call the source.
    """

    texts: Sequence[str]
    ids: list[str] | None = None
    labels: Any = None
    class_names: list[str] | None = None
    name: str = "texts"

    def __post_init__(self) -> None:
        if not len(self.texts):
            raise ClipAlignError(f"{self.name}: there are no texts; give at least one")
        for what, values in (("ids", self.ids), ("labels", self.labels)):
            if values is not None and len(values) != len(self.texts):
                raise ClipAlignError(
                    f"{self.name}: {len(self.texts)} texts but {len(values)} {what}; give one for each"
                )

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        """Identifies texts, names and labels, to key caches."""
        labels = [] if self.labels is None else map(str, np.asarray(self.labels).tolist())
        return digest(self.texts, self.ids or [], labels, self.class_names or [])
