"""Folders of images."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hf_clipalign._checks.quoting import printable, readable_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.file_kinds import (
    describe_other_kinds,
    image_extensions,
    is_skipped,
    other_kind,
    special_kind,
)
from hf_clipalign.data.images.source import ImageSource, digest, file_state
from hf_clipalign.data.labels.columns import encode_names

logger = logging.getLogger(__name__)

_Place = tuple[int, int]
"""Device and inode of a folder."""


def image_folder(path: str | os.PathLike[str], recursive: bool = True) -> ImageSource:
    """Opens a folder of images; its sub-folders, where there are any, are the classes.

    The class is the first folder below `path`, however deep the image lies; class names are sorted. Images that
    lie directly in `path` have no class, and then the whole source has no labels. Hidden files and folders, those
    that systems make for themselves (`@eaDir`, `__MACOSX`, `lost+found`, …), other files and folders without images
    are skipped; HEIC and RAW images and videos that cannot be read are counted in a warning, and so are broken links,
    FIFOs, sockets and devices, which are never opened. Links to folders are followed, but not in circles. Names that
    are not UTF-8 are written with `\\xe9` and the like.

    Args:
        path (`str` or `os.PathLike`): the folder.
        recursive (`bool`, *optional*, defaults to `True`):
            whether to look into sub-folders; without it there are no labels.

    Returns:
        `ImageSource`: sorted by relative path, which is the id.

    Raises:
        `ClipAlignError`: if the folder is missing, not a folder, not readable, or holds no image.

    Example:
        ```python
        >>> from hf_clipalign.data import image_folder
        >>> source = image_folder("photos")
        >>> source.ids[0], source.class_names
        ('cat/1.png', ['cat', 'dog', 'owl'])
        ```
    """
    root = Path(path).expanduser()
    name = printable(str(root))
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "no such folder"
        raise ClipAlignError(f"{name}: {problem}; pass the folder that holds the images")
    others: dict[str, list[str]] = defaultdict(list)
    parts = sorted(_walk(root, recursive, others))
    found = describe_other_kinds(others)
    if not parts:
        where = "in it or its sub-folders" if recursive else "directly in it (recursive=False)"
        extensions = ", ".join(image_extensions())
        raise ClipAlignError(
            f"{name}: no images {where}; " + (f"found {found}" if found else f"looked for {extensions}")
        )
    if found:
        logger.warning("%s: not read are %s", name, found)
    labels, class_names = None, None
    if all(len(p) > 1 for p in parts):
        labels, class_names = encode_names([readable_name(p[0]) for p in parts], name)
    ids = [readable_name("/".join(p)) for p in parts]
    items = [str(root.joinpath(*p)) for p in parts]
    return ImageSource(
        items,
        ids=ids,
        labels=labels,
        class_names=class_names,
        name=name,
        fingerprint=partial(_folder_fingerprint, ids, items),
    )


def _walk(root: Path, recursive: bool, others: dict[str, list[str]]) -> Iterator[tuple[str, ...]]:
    """Yields the relative path of each image, as parts, and lists what is of other kinds."""
    folders: list[tuple[tuple[str, ...], tuple[_Place, ...]]] = [((), ())]
    while folders:
        parts, above = folders.pop()
        here, entries = _entries(root.joinpath(*parts))
        if here in above:
            continue
        for entry in entries:
            if is_skipped(entry.name):
                continue
            is_file, is_folder = file_or_folder(entry)
            if is_file and entry.name.lower().endswith(image_extensions()):
                yield (*parts, entry.name)
            elif is_folder:
                folders += [((*parts, entry.name), (*above, here))] if recursive else []
            elif kind := other_kind(entry.name) if is_file else special_kind(entry):
                others[kind].append(readable_name("/".join((*parts, entry.name))))


def _entries(folder: Path) -> tuple[_Place, list[os.DirEntry[str]]]:
    try:
        status = os.stat(folder)
        return (status.st_dev, status.st_ino), list(os.scandir(folder))
    except OSError as error:
        name = printable(str(folder))
        raise ClipAlignError(f"{name}: cannot be read ({error.strerror}); check its access rights") from error


def file_or_folder(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is a file, and whether it is a folder; a link to nothing or to itself is neither."""
    try:
        return entry.is_file(), entry.is_dir()
    except OSError:
        return False, False


def _folder_fingerprint(ids: list[str], items: list[str]) -> str:
    return digest(ids, map(file_state, items))
