"""Which files of a folder are images, which are of kinds that need something more, and which are of no concern."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import Any

from hf_clipalign._checks.quoting import quoted

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".ico"),
)
"""File name endings, in lower case, that folders are searched for; with the extra `heif` also those of HEIC."""

_HEIC, _RAW, _VIDEO = "HEIC image", "RAW image", "video"
_HEIF_EXTENSIONS = (".heic", ".heif", ".hif")
_OTHER_KINDS = {
    **dict.fromkeys(_HEIF_EXTENSIONS, _HEIC),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"), _RAW),
    **dict.fromkeys(
        (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".mts", ".mpg", ".mpeg", ".wmv"), _VIDEO
    ),
}
_INSTALL_HEIF = 'pip install "hf_clipalign[heif]"'
_WAYS_OUT = {
    _HEIC: f"{_INSTALL_HEIF} to read them",
    _RAW: "export them as JPEG or TIFF",
    _VIDEO: "save frames of them as images",
}
_BROKEN_LINK = "broken link"
_SPECIAL_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}
_MOST_NAMES = 3
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

KNOWN_EXTENSIONS = (*IMAGE_EXTENSIONS, *_OTHER_KINDS)
"""Endings of everything that shows something, whether or not it can be read."""

_SYSTEM_NAMES = frozenset(
    {"@eadir", "#recycle", "@recycle", "@recently-snapshot", "__macosx", "lost+found", "$recycle.bin"}
    | {"system volume information", "thumbs.db", "desktop.ini"}
)


def is_skipped(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system or a network disk makes for itself.

    Args:
        name (`str`): its name, without folders.

    Example:
        ```python
        >>> from hf_clipalign.data.images.file_kinds import is_skipped
        >>> [name for name in ("cat", ".thumbnails", "@eaDir", "__MACOSX", "lost+found") if not is_skipped(name)]
        ['cat']
        ```
    """
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def image_extensions() -> tuple[str, ...]:
    """The endings that folders are searched for in this installation."""
    return IMAGE_EXTENSIONS + _HEIF_EXTENSIONS if register_heif() else IMAGE_EXTENSIONS


def other_kind(name: str) -> str | None:
    """What a file is by its ending, if it holds images that cannot be read here."""
    name = name.lower()
    if name.endswith(image_extensions()):
        return None
    return _OTHER_KINDS.get(name[name.rfind(".") :])


def special_kind(entry: os.DirEntry[str]) -> str | None:
    """What an entry is that is neither a file nor a folder, without opening it; None if it is gone."""
    try:
        return _SPECIAL_KINDS.get(stat.S_IFMT(entry.stat().st_mode))
    except OSError:
        return _BROKEN_LINK if entry.is_symlink() else None


def describe_other_kinds(found: Mapping[str, Sequence[str]]) -> str:
    """One line on files that were found and not read, by kind, with the way out for each kind; empty for none."""
    parts = sorted(found.items(), key=lambda part: -len(part[1]))
    return ", ".join(
        f"{len(names)} {kind}{'s' if len(names) > 1 else ''} ({_way_out(kind, names)})" for kind, names in parts
    )


def _way_out(kind: str, names: Sequence[str]) -> str:
    if kind in _WAYS_OUT:
        return _WAYS_OUT[kind]
    return f"mend or delete: {quoted(sorted(names), _MOST_NAMES)}"


def hint_for(prefix: bytes, formats: Container[str]) -> str | None:
    """The way out for an image that PIL lacks a reader for, by its first 16 bytes, whatever its name is."""
    if prefix[4:8] != b"ftyp":
        return None
    if prefix[8:12] in _HEIF_BRANDS and "HEIF" not in formats:
        return f"is a HEIC image; {_INSTALL_HEIF} to read it"
    if prefix[8:12] in (b"avif", b"avis") and "AVIF" not in formats:
        return 'is an AVIF image; pip install "pillow>=11.3" to read it'
    return None


@cache
def register_heif() -> bool:
    """Adds HEIC to the formats of PIL where pillow-heif is installed; whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def by_numbers(name: str) -> list[Any]:
    """A key to sort names by, in which numbers count as such: `9.tar` comes before `10.tar`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
