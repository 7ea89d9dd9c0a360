"""ImageNet and its variants: one folder of images per class."""

from __future__ import annotations

from pathlib import Path

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.formats.listing import Place, fields, text_lines
from hf_clipalign.data import ImageSource, image_folder


def read_folders(place: Place) -> dict[str, ImageSource]:
    """A folder per part, in it a folder per class, and a list of lines `n01440764 tench` with readable names.

    Classes are numbered in the order of the list, those without a folder in any part are left out.

    Args:
        place (`Place`): with the file `classes`, where folders have the identifiers of the list, or `numbered`, where
            folders are its places from 0.
    """
    role = next(iter(place.layout.files))
    path = place.file(role)
    names = _numbered(path) if role == "numbered" else _names(path)
    sources = {part: _labelled(image_folder(place.images(part)), place, part) for part in place.layout.images}
    present = {name for source in sources.values() for name in source.class_names or []}
    if unknown := sorted(present - names.keys()):
        raise ClipAlignError(
            f"{path}: has no name for the folder {short(unknown[0])} of {place.title}: replace the file"
        )
    order = [folder for folder in names if folder in present]
    return {part: _named(source, place, part, order, names) for part, source in sources.items()}


def _names(path: Path) -> dict[str, str]:
    """Readable names by identifier."""
    names: dict[str, str] = {}
    for number, line in text_lines(path):
        identifier, name = fields(path, number, line, 2, "n01440764 tench")
        if names.setdefault(identifier, name) != name:
            raise ClipAlignError(f"{path}: line {number}: {short(identifier)} has two names: replace the file")
    readable = list(names.values())
    if len(set(readable)) < len(readable):
        twice = next(name for name in readable if readable.count(name) > 1)
        raise ClipAlignError(
            f"{path}: two classes are called {short(twice)}; take CoOp's classnames.txt, whose names differ"
        )
    return names


def _numbered(path: Path) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(_names(path).values())}


def _labelled(source: ImageSource, place: Place, part: str) -> ImageSource:
    if source.class_names is None:
        raise ClipAlignError(f"{place.images(part)}: images lie directly in it: move them into one folder per class")
    return source


def _named(source: ImageSource, place: Place, part: str, order: list[str], names: dict[str, str]) -> ImageSource:
    numbers = {folder: number for number, folder in enumerate(order)}
    labels = [numbers[(source.class_names or [])[label]] for label in source.labels.tolist()]  # type: ignore[union-attr]
    readable = [names[folder] for folder in order]
    title = f"{place.title}: {part}"
    return ImageSource(source.items, ids=source.ids, labels=labels, class_names=readable, name=title)
