"""Files that are duplicates of one another: equal bytes, the same image again, or images that are merely alike."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import counted
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._tables import NumberTable
from hf_clipalign.search.answers import pixels
from hf_clipalign.search.answers.collection import Collection
from hf_clipalign.search.answers.hits import as_csv, shown_path
from hf_clipalign.search.answers.pages import Tile, TileGroup
from hf_clipalign.search.answers.vectors import ALIGNED, RAW
from hf_clipalign.search.duplicates import DuplicatePairs, duplicate_groups, near_duplicates

COPIES, SAME, SIMILAR, UNCHECKED = "copies", "same image", "similar", "unchecked"
_MEANINGS = {
    COPIES: "files with equal bytes",
    SAME: "the same image again, resized or saved anew",
    SIMILAR: "alike, but not the same image",
    UNCHECKED: "alike; pip install 'hf_clipalign[search]' to know whether they are the same image",
}
_COLUMNS = ("group", "kind", "keep", "path", "score", "bytes", "width", "height", "modified")
_LARGEST_SHARE, _FEWEST = 0.25, 5
"""A group of more of the collection is a chain: each image is like the next one, and the ends are not alike."""


@dataclass(frozen=True)
class DuplicateFile:
    """A file of a group.

    Args:
        path (`str`): absolute.
        score (`float`): highest cosine with another image of the group; 1 for copies.
        bytes (`int`): size of the file.
        width (`int` or None), height (`int` or None): in pixels, where the pixels were compared.
        modified (`str`): local time, ISO.

    Example:
        ```python
        >>> from hf_clipalign.search import DuplicateFile
        >>> DuplicateFile("/photos/a.jpg", 1.0, 1024, 640, 480, "2024-05-31T18:30:00").width
        640
        ```
    """

    path: str
    score: float
    bytes: int
    width: int | None
    height: int | None
    modified: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Files that are duplicates of one another.

    Args:
        kind (`str`): `"copies"` (equal bytes), `"same image"` (resized or saved anew), `"similar"` (alike, but another
            image), or `"unchecked"` (alike, and the library that compares pixels is not installed).
        keep (`str` or None): path of the file that is worth keeping: the largest image, of these the largest and then
            the oldest file. None for similar and unchecked images, which may all be worth keeping.
        files (`tuple[DuplicateFile, ...]`): all of them, in that order.

    Example:
        ```python
        >>> from hf_clipalign.search import DuplicateFile, DuplicateGroup
        >>> file = DuplicateFile("/photos/a.jpg", 1.0, 1024, None, None, "2024-05-31T18:30:00")
        >>> DuplicateGroup("copies", file.path, (file,)).to_dict()["kind"]
        'copies'
        ```
    """

    kind: str
    keep: str | None
    files: tuple[DuplicateFile, ...]

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON has it."""
        return {**asdict(self), "files": [asdict(file) for file in self.files]}


def find_duplicates(
    collection: Collection,
    threshold: float = 0.95,
    *,
    head: str | None = None,
    check_pixels: bool | None = None,
    progress: bool = False,
) -> list[DuplicateGroup]:
    """Groups of duplicates in a collection; no file is changed or deleted.

    Candidates are all pairs of images whose cosine reaches the threshold, exactly those of comparing every image with
    every other. A perceptual hash (extra `search`) then tells those that are the same image from those that are
    merely alike; a group of the same image counts as one image among its likes.

    Args:
        collection (`Collection`): an `ImageIndex`.
        threshold (`float`, *optional*, defaults to `0.95`): smallest cosine, in (0, 1].
        head (`str`, *optional*): in whose space. Default: the head for images if there is one, else the base's.
        check_pixels (`bool`, *optional*): compare pixels too. Default: where the library is installed.
        progress (`bool`, *optional*, defaults to `False`): show a bar on a terminal while images are read.

    Returns:
        `list[DuplicateGroup]`: copies, then the same image, then similar ones.

    Raises:
        `ClipAlignError`: a threshold out of range, or no such head.

    Example:
        ```python
        >>> from hf_clipalign.search import ImageIndex, find_duplicates
        >>> [group.kind for group in find_duplicates(ImageIndex.open("photos.index"), check_pixels=False)]
        ['unchecked']
        ```
    """
    if head is None:
        head = ALIGNED if ALIGNED in collection.heads else RAW
    embeddings = collection.embeddings(head)  # an index that lacks the head says how to get it
    if head not in collection.heads:
        raise unknown_name("head", head, collection.heads)
    if check_pixels is None:
        check_pixels = pixels.is_installed()
    pairs = near_duplicates(embeddings, threshold)
    shown = _Shown(collection, pairs, check_pixels, progress)
    kept = shown.is_same
    same = DuplicatePairs(pairs.first[kept], pairs.second[kept], pairs.scores[kept])
    n = len(collection.embeddings(head))
    sets = duplicate_groups(n, same) if len(same.first) else []
    representative = np.arange(n)
    for rows in sets:
        representative[rows] = shown.best(rows)
    linked = DuplicatePairs(representative[pairs.first], representative[pairs.second], pairs.scores)
    likes = duplicate_groups(n, linked) if len(pairs.first) else []
    many = np.flatnonzero(np.bincount(collection.files.images, minlength=n) > 1)
    in_sets = {row for rows in sets for row in rows}
    copies = [row for row in many.tolist() if row not in in_sets and len(shown.distinct(row)) > 1]
    kind = SIMILAR if check_pixels else UNCHECKED
    of_same, of_likes = _best_scores(n, same), _best_scores(n, linked)
    return [
        *(shown.group(COPIES, [row], np.ones(n)) for row in copies),
        *(shown.group(SAME, rows, of_same) for rows in sets),
        *(shown.group(kind, rows, of_likes) for rows in likes),
    ]


def _best_scores(n: int, pairs: DuplicatePairs) -> NDArray[np.float64]:
    """The highest cosine of each image with another one it is paired with."""
    best = np.zeros(n)
    is_pair = pairs.first != pairs.second
    for part in (pairs.first, pairs.second):
        np.maximum.at(best, part[is_pair], pairs.scores[is_pair])
    return best


class _Shown:
    """The images of pairs with their files and pixels.

    Args:
        collection (`Collection`): where they are.
        pairs (`DuplicatePairs`): which images.
        check_pixels (`bool`): whether pixels are compared.
        progress (`bool`): show a bar meanwhile.
    """

    def __init__(self, collection: Collection, pairs: DuplicatePairs, check_pixels: bool, progress: bool) -> None:
        self.files = collection.files
        paired = np.unique(np.concatenate([pairs.first, pairs.second]))
        path = {row: self.files.path(self.files.of_image(row)[0]) for row in paired.tolist()}
        self.known = pixels.fingerprints(path.values(), progress) if check_pixels else {}
        self.is_same: NDArray[np.bool_] = np.array(
            [
                pixels.is_same_image(path[first], path[second], self.known)
                for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
            ],
            dtype=bool,
        )
        self.size = {row: self.known[path[row]].size for row in path if path[row] in self.known}

    def best(self, rows: Sequence[int]) -> int:
        """The image among some that is worth keeping."""
        return min(rows, key=lambda row: min(self._rank(row, i) for i in self.files.of_image(row).tolist()))

    def distinct(self, row: int) -> list[int]:
        """The files of an image without links to one another: deleting what a link leads to would lose the image."""
        numbers = self.files.of_image(row).tolist()
        if len(numbers) == 1:
            return numbers
        found: dict[str, int] = {}
        for i in numbers:
            path = self.files.path(i)
            real = os.path.realpath(path)
            if real not in found or path == real:
                found[real] = i
        return list(found.values())

    def group(self, kind: str, rows: Iterable[int], scores: NDArray[np.float64]) -> DuplicateGroup:
        """A group of images with all their files."""
        ranked = sorted((self._rank(row, i), row, i) for row in rows for i in self.distinct(row))
        files = tuple(self._file(row, i, scores[row]) for _, row, i in ranked)
        return DuplicateGroup(kind, files[0].path if kind in (COPIES, SAME) else None, files)

    def _rank(self, row: int, i: int) -> tuple[float, ...]:
        width, height = self.size.get(row, (0, 0))
        return -width * height, -int(self.files.sizes[i]), float(self.files.modified[i])

    def _file(self, row: int, i: int, score: float) -> DuplicateFile:
        width, height = self.size.get(row, (None, None))
        modified = datetime.fromtimestamp(float(self.files.modified[i])).isoformat(timespec="seconds")
        path, size = self.files.path(i), int(self.files.sizes[i])
        return DuplicateFile(path, round(float(score), 6), size, width, height, modified)


def groups_too_large(groups: Sequence[DuplicateGroup], collection: Collection) -> list[int]:
    """Sizes of the groups of merely alike images that hold more than a quarter of a collection, and five files.

    Args:
        groups (`Sequence[DuplicateGroup]`): of `find_duplicates`.
        collection (`Collection`): where they were found.
    """
    most = max(len(collection.files.names) * _LARGEST_SHARE, _FEWEST - 1)
    return [len(group.files) for group in groups if group.keep is None and len(group.files) > most]


def groups_as_json(groups: Sequence[DuplicateGroup]) -> str:
    """A list of `{kind, keep, files}`."""
    return json.dumps([group.to_dict() for group in groups], indent=1)


def groups_as_csv(groups: Sequence[DuplicateGroup]) -> str:
    """One line a file, with the number of its group and whether it is worth keeping, if that is known."""
    rows = [
        (number, group.kind, _kept(group, file), *_cells(file))
        for number, group in enumerate(groups, start=1)
        for file in group.files
    ]
    return as_csv(_COLUMNS, rows)


def groups_as_table(groups: Sequence[DuplicateGroup], most: int = 100) -> NumberTable:
    """The groups for a terminal, no more than `most` of them."""
    rows = []
    for number, group in enumerate(groups[:most], start=1):
        for file in group.files:
            is_first = file is group.files[0]
            size = "" if file.width is None else f"{file.width} × {file.height}"
            head = [
                f"{number} {group.kind}" if is_first else "",
                ("keep " if file.path == group.keep else "") + shown_path(file.path),
            ]
            rows.append([*head, f"{file.score:.3f}", size, f"{file.bytes:,}"])
    kinds = [kind for kind in _MEANINGS if any(group.kind == kind for group in groups)]
    more = (
        [f"and {counted(len(groups) - most, 'group')} more: --json, --csv and --html have all"]
        if len(groups) > most
        else []
    )
    caption = "\n".join([*more, *(f"{kind}: {_MEANINGS[kind]}" for kind in kinds)])
    return NumberTable(["group", "image", "score", "pixels", "bytes"], rows, caption=caption, texts=(0, 1))


def groups_as_tiles(groups: Sequence[DuplicateGroup]) -> list[TileGroup]:
    """The groups for a page."""
    return [
        TileGroup(
            f"{number}. {group.kind}",
            _MEANINGS[group.kind],
            [_tile(file, file.path == group.keep) for file in group.files],
        )
        for number, group in enumerate(groups, start=1)
    ]


def _kept(group: DuplicateGroup, file: DuplicateFile) -> str:
    if group.keep is None:
        return ""
    return "yes" if file.path == group.keep else "no"


def _cells(file: DuplicateFile) -> list[object]:
    size = ["" if value is None else value for value in (file.width, file.height)]
    return [file.path, f"{file.score:.6g}", file.bytes, *size, file.modified]


def _tile(file: DuplicateFile, is_kept: bool) -> Tile:
    pixels_of = "" if file.width is None else f"{file.width} × {file.height} pixels, "
    lines = [f"{pixels_of}{file.bytes:,} bytes", file.modified.replace("T", " ")]
    return Tile(file.path, ["worth keeping", *lines] if is_kept else lines, is_kept)
