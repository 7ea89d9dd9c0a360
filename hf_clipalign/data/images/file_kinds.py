"""Which files of a folder are images, which are of kinds that need something more, and which are of no concern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from functools import cache

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


def describe_other_kinds(kinds: Counter[str]) -> str:
    """One line on files that were found and not read, with the way out for each kind; empty for none."""
    parts = [f"{count} {kind}{'s' if count > 1 else ''} ({_WAYS_OUT[kind]})" for kind, count in kinds.most_common()]
    return ", ".join(parts)


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
