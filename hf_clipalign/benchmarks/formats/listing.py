"""What readers have in common: where a data set lies, lines of text files, and images that annotations list."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, check_schema, read_json
from hf_clipalign.benchmarks.entries import Layout
from hf_clipalign.data import ImageSource
from hf_clipalign.data.labels.label_files import checked_path

_MOST_BYTES = 2**28


@dataclass(frozen=True)
class Place:
    """A layout in a folder.

    Args:
        folder (`Path`): the data set's folder.
        layout (`Layout`): what is expected in it.
        title (`str`): what errors call the data set.
    """

    folder: Path
    layout: Layout
    title: str

    def file(self, role: str) -> Path:
        """An annotation file by what it holds.

        Raises:
            `ClipAlignError`: it is not there.
        """
        path = self.folder / self.layout.files[role]
        if not path.is_file():
            raise ClipAlignError(f"{path}: no such file; it is part of {self.title}, see `clipalign benchmarks show`")
        return path

    def images(self, part: str = "all") -> Path:
        """The folder of the images of a part.

        Raises:
            `ClipAlignError`: it is not there.
        """
        images = self.layout.images
        path = self.folder / images.get(part, images.get("all", "."))
        if not path.is_dir():
            raise ClipAlignError(f"{path}: no such folder; it holds images of {self.title}: unpack them there")
        return path


class Listed(NamedTuple):
    """An image that an annotation lists.

    Attributes:
        path (`str`): relative to the folder of images.
        label (`int`): class, from 0.
    """

    path: str
    label: int


def text_lines(path: Path, header: str | None = None) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1.

    Args:
        path (`Path`): the file.
        header (`str`, *optional*): what the first line has to be; it is left out.

    Raises:
        `ClipAlignError`: it is too large, not UTF-8, empty, or has another first line.
    """
    with open(path, "rb") as stream:
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ClipAlignError(f"{path}: is larger than {_MOST_BYTES} bytes, too large for such a list: replace it")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ClipAlignError(f"{path}: byte {error.start} is not UTF-8: replace the file") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if header is not None:
        if not numbered or numbered[0][1].split() != header.split():
            raise ClipAlignError(f"{path}: the first line is not {header!r}: replace the file")
        numbered = numbered[1:]
    if not numbered:
        raise ClipAlignError(f"{path}: the file lists nothing: replace it")
    yield from numbered


def fields(path: Path, number: int, line: str, count: int, looks_like: str) -> list[str]:
    """The parts of a line between spaces; the last one keeps its spaces.

    Raises:
        `ClipAlignError`: there are fewer.
    """
    parts = line.split(maxsplit=count - 1)
    if len(parts) != count:
        raise ClipAlignError(f"{path}: line {number} is {short(line)}, not like {looks_like!r}")
    return parts


def whole_number(text: str, path: Path, number: int, first: int = 0) -> int:
    """A number of a line, minus the first one that is used.

    Raises:
        `ClipAlignError`: it is no whole number, or is below the first.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 16) or int(text) < first:
        raise ClipAlignError(f"{path}: line {number} has {short(text)} where a whole number from {first} belongs")
    return int(text) - first


def numbered_names(path: Path) -> list[str]:
    """The names of a file of lines `1 001.Black_footed_Albatross`, numbered from 1 without gaps."""
    names: list[str] = []
    for number, line in text_lines(path):
        place, name = fields(path, number, line, 2, "1 001.Black_footed_Albatross")
        if whole_number(place, path, number, first=1) != len(names):
            raise ClipAlignError(f"{path}: line {number} is numbered {place}, not {len(names) + 1}")
        names.append(name)
    return names


def listed_images(
    rows: Mapping[str, Sequence[Listed]], place: Place, files: Mapping[str, Path], names: Sequence[str] | None = None
) -> dict[str, ImageSource]:
    """The images that annotations list, by part.

    Args:
        rows (`Mapping[str, Sequence[Listed]]`): images by part.
        place (`Place`): where the data set lies.
        files (`Mapping[str, Path]`): the annotation of each part, for errors.
        names (`Sequence[str]`, *optional*): name per class.

    Raises:
        `ClipAlignError`: an empty part, a class without a name, a path that leaves the folder, an image that is
            listed twice or is not there; those that are not there are counted.
    """
    seen: dict[str, str] = {}
    return {part: _source(listed, place, part, files[part], names, seen) for part, listed in rows.items()}


def _source(
    rows: Sequence[Listed], place: Place, part: str, file: Path, names: Sequence[str] | None, seen: dict[str, str]
) -> ImageSource:
    if not rows:
        raise ClipAlignError(f"{file}: no image is in the part {part!r}: replace the file")
    root, paths = place.images(part), []
    for number, row in enumerate(rows):
        path = checked_path(row.path, number, str(file))
        other = seen.setdefault(os.path.join(root, path), part)
        if other != part:
            raise ClipAlignError(f"{file}: {short(path)} is in {other} and in {part}: replace the file")
        if names is not None and row.label >= len(names):
            raise ClipAlignError(
                f"{file}: row {number} (from 0) has class {row.label} (from 0), but {len(names)} classes have names"
            )
        paths.append(path)
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise ClipAlignError(f"{file}: {short(twice[0])} is listed twice: replace the file")
    items = [os.path.join(root, path) for path in paths]
    name = f"{place.title}: {part}"
    require_files(items, name)
    labels = np.array([row.label for row in rows], dtype=np.int64)
    return ImageSource(items, ids=paths, labels=labels, class_names=names, name=name)


def require_files(items: Sequence[str], name: str) -> None:
    """Refuses images that are not there.

    Raises:
        `ClipAlignError`: how many are missing, and the first one.
    """
    missing = [item for item in items if not os.path.isfile(item)]
    if missing:
        count = f"{len(missing):,} of {len(items):,} images {'is' if len(missing) == 1 else 'are'} not there"
        raise ClipAlignError(f"{name}: {count}, the first is {short(missing[0])}: unpack the images again")


def json_file(path: Path, schema: Any, max_bytes: int) -> dict[str, Any]:
    """The content of a JSON file that fits a schema, see `hf_clipalign._io.limited_json`.

    Raises:
        `ClipAlignError`: it is too large, is not JSON, or does not fit.
    """
    content = read_json(path, max_bytes=max_bytes)
    try:
        check_schema(content, schema)
    except BadJson as error:
        raise ClipAlignError(f"{path}: {error}: replace it") from error
    return content
