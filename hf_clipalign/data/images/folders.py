"""Folders of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.reader import IMAGE_EXTENSIONS
from hf_clipalign.data.images.source import ImageSource, digest, file_state
from hf_clipalign.data.labels.columns import encode_names


def image_folder(path: str | os.PathLike[str], recursive: bool = True) -> ImageSource:
    """Opens a folder of images; its sub-folders, where there are any, are the classes.

    The class is the first folder below `path`, however deep the image lies; class names are sorted. Images that
    lie directly in `path` have no class, and then the whole source has no labels. Hidden files and folders, other
    files and folders without images are skipped. Links to folders are followed, but not in circles.

    Args:
        path (`str` or `os.PathLike`): The folder.
        recursive (`bool`, defaults to `True`): Whether to look into sub-folders; without it there are no labels.

    Returns:
        [`ImageSource`]: sorted by relative path, which is the id.

    Raises:
        [`ClipAlignError`]: if the folder is missing, not a folder, not readable, or holds no image.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "no such folder"
        raise ClipAlignError(f"{root}: {problem}; pass the folder that holds the images")
    parts = sorted(_walk(root, (), recursive, ()))
    if not parts:
        where = "in it or its sub-folders" if recursive else "directly in it (recursive=False)"
        raise ClipAlignError(f"{root}: no images {where}; looked for {', '.join(IMAGE_EXTENSIONS)}")
    labels, class_names = None, None
    if all(len(p) > 1 for p in parts):
        labels, class_names = encode_names([p[0] for p in parts])
    ids = ["/".join(p) for p in parts]
    items = [str(root.joinpath(*p)) for p in parts]
    return ImageSource(
        items,
        ids=ids,
        labels=labels,
        class_names=class_names,
        name=str(root),
        fingerprint=partial(_folder_fingerprint, ids, items),
    )


def _walk(
    folder: Path, parts: tuple[str, ...], recursive: bool, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, ...]]:
    """Yields the relative path of each image, as parts; `above` are the folders that are being walked."""
    try:
        status = os.stat(folder)
        if (here := (status.st_dev, status.st_ino)) in above:
            return
        entries = list(os.scandir(folder))
    except OSError as error:
        raise ClipAlignError(f"{folder}: cannot be read ({error.strerror}); check its access rights") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.name.lower().endswith(IMAGE_EXTENSIONS) and entry.is_file():
            yield (*parts, entry.name)
        elif recursive and entry.is_dir():
            yield from _walk(Path(entry.path), (*parts, entry.name), recursive, (*above, here))


def _folder_fingerprint(ids: list[str], items: list[str]) -> str:
    return digest(ids, map(file_state, items))
