"""Revisited Oxford and Paris: `gnd_*.pkl` with the names of images, and what is easy, hard or junk for each query."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.formats.listing import Place, require_files
from hf_clipalign.benchmarks.formats.plain_values import read_plain_values
from hf_clipalign.data import ImageSource
from hf_clipalign.data.labels.label_files import checked_path

_LISTS = {"gallery": "imlist", "query": "qimlist"}
_KINDS = ("easy", "hard", "junk")


class Judgements(NamedTuple):
    """For each query, positions in the gallery.

    Attributes:
        easy (`list[list[int]]`), hard (`list[list[int]]`), junk (`list[list[int]]`): one list per query, as
            `hf_clipalign.metrics.revisited_retrieval_metrics` takes them.

    Example:
        ```python
        >>> Judgements(easy=[[0]], hard=[[2]], junk=[[]]).hard
        [[2]]
        ```
    """

    easy: list[list[int]]
    hard: list[list[int]]
    junk: list[list[int]]


def read_revisited(place: Place) -> dict[str, ImageSource]:
    """The images `query` and `gallery`, without labels: `read_judgements` says what is relevant.

    Args:
        place (`Place`): with the file `judgements`.
    """
    path = place.file("judgements")
    content = _content(path)
    return {part: _source(content[_LISTS[part]], place, path, part) for part in ("query", "gallery")}


def read_judgements(place: Place) -> Judgements:
    """What is relevant to each query.

    Args:
        place (`Place`): with the file `judgements`.

    Raises:
        `ClipAlignError`: the file is damaged, or names an image that the gallery does not have.
    """
    path = place.file("judgements")
    content = _content(path)
    n_images, entries = len(content["imlist"]), content["gnd"]
    lists = {kind: [_positions(entry, kind, n_images, path) for entry in entries] for kind in _KINDS}
    return Judgements(**lists)


def _content(path: Path) -> dict[str, Any]:
    content = read_plain_values(path)
    if not isinstance(content, dict) or not all(type(content.get(key)) is list for key in (*_LISTS.values(), "gnd")):
        raise ClipAlignError(f"{path}: holds no lists imlist, qimlist and gnd: download it again")
    if len(content["gnd"]) != len(content["qimlist"]):
        queries, entries = len(content["qimlist"]), len(content["gnd"])
        raise ClipAlignError(f"{path}: {queries} queries, but {entries} judgements: download it again")
    return content


def _positions(entry: Any, kind: str, n_images: int, path: Path) -> list[int]:
    positions = entry.get(kind) if isinstance(entry, dict) else None
    fits = type(positions) is list and all(type(one) is int and 0 <= one < n_images for one in positions)
    if not fits or positions is None:
        raise ClipAlignError(f"{path}: {kind} is {short(positions)}, no list of positions among {n_images} images")
    return positions


def _source(names: list[Any], place: Place, path: Path, part: str) -> ImageSource:
    if not names or not all(isinstance(name, str) for name in names):
        raise ClipAlignError(f"{path}: {_LISTS[part]} is no list of names: download it again")
    ids = [checked_path(f"{name}.jpg", row, str(path)) for row, name in enumerate(names)]
    items = [os.path.join(place.images(), name) for name in ids]
    require_files(items, f"{place.title}: {part}")
    return ImageSource(items, ids=ids, name=f"{place.title}: {part}")
