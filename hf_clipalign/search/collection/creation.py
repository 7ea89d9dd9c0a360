"""What an index begins with: folders, the head, and the lock of its own folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.quoting import printable, short, short_reason
from hf_clipalign._checks.suggestions import nearest
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import exclusive_lock, explained_read
from hf_clipalign._io.staging import remove_stale
from hf_clipalign._io.urls import looks_like_url, shown
from hf_clipalign.features.storage.headers import DamagedShard
from hf_clipalign.search.collection.manifest import Manifest, damage_of, get_setting
from hf_clipalign.search.collection.models import LoadedModel
from hf_clipalign.search.heads import ALIGNED, FILE, RAW, Heads


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an index for writing; what killed runs left half-written is removed.

    Raises:
        `ClipAlignError`: another process holds it, or its folder cannot be written to.
    """
    busy = f"another process writes to the index {printable(str(path))!r}: wait until it has ended."
    with exclusive_lock(path / ".index.lock", busy):
        remove_stale(path)
        yield


def index_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of an index.

    Raises:
        `ClipAlignError`: it is behind a URL: SQLite needs locks, and a search maps the features into memory.
    """
    if looks_like_url(path):
        raise ClipAlignError(
            f"{shown(str(path))!r}: an index lies on a disk of this machine; copy it to one, or read a feature store "
            "there with FeatureStore.open."
        )
    return Path(path)


def opened_heads(folder: Path) -> Heads:
    """The heads of an index; without matrices if their file is damaged and only the database knows what it is.

    Raises:
        `ClipAlignError`: the folder holds no index, one of a newer format, or one that cannot be read.
    """
    manifest = Manifest(folder)
    try:
        with explained_read(folder / FILE):
            return Heads.load(folder)
    except (DamagedShard, ClipAlignError, KeyError, TypeError) as error:
        if not manifest.path.exists() and not (folder / FILE).exists():
            name = printable(str(folder))
            raise ClipAlignError(
                f"{name!r} holds no index: make one with `clipalign index IMAGES --model MODEL --out {name}`."
            ) from None
        with manifest.reading() as connection:
            description = get_setting(connection, "description")
        if description is None:
            raise ClipAlignError(f"the index {str(folder)!r} is damaged beyond repair: make it again.") from error
        reason = short_reason(error) if (folder / FILE).exists() else "it is missing"
        return Heads(description, {}, damage=[damage_of(folder / FILE, reason)])


def checked_roots(folder: Any) -> list[str]:
    """Absolute paths of the folders, each there and none in another."""
    given = [folder] if isinstance(folder, (str, os.PathLike)) else list(folder)
    if not given:
        raise ClipAlignError("no folder to index was given.")
    roots: list[str] = []
    for path in given:
        root = os.path.abspath(os.path.expanduser(os.fspath(path)))
        if not os.path.isdir(root):
            raise ClipAlignError(f"{printable(root)}: {_why_no_folder(root)}")
        roots.append(root)
    real = [os.path.join(os.path.realpath(root), "") for root in roots]
    for i, one in enumerate(real):
        for j, other in enumerate(real):
            if i != j and one.startswith(other):
                raise ClipAlignError(f"{printable(roots[i])} lies in {printable(roots[j])}: give one of them.")
    return roots


def _why_no_folder(path: str) -> str:
    """What is wrong with a path that is no folder, and what was probably meant."""
    parent, name = os.path.split(path)
    if os.path.exists(path):
        return f"is a file, not a folder; pass the folder that holds the images, such as {printable(parent)!r}"
    beside = []
    with contextlib.suppress(OSError):
        beside = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    close = nearest(name, beside)
    hint = f"did you mean {printable(os.path.join(parent, close))!r}?" if close else "pass one that holds the images"
    return f"no such folder; {hint}"


def chosen_head(loaded: LoadedModel, head: Any) -> tuple[Any, tuple[int, int] | None]:
    """The view of the model and the band that are meant by `head`."""
    from hf_clipalign.isoclip.bands import known_bands, resolve_bands

    if isinstance(head, (tuple, list)) and len(head) == 2:
        return loaded.encoder, (check_integer("k_top", head[0], 0), check_integer("k_bottom", head[1], 0))
    if head == RAW:
        return loaded.encoder, None
    if head not in ("auto", ALIGNED):
        raise ClipAlignError(f"head is {short(head)}: give 'auto', 'raw' or a band (k_top, k_bottom).")
    if loaded.band is not None:
        return loaded.encoder, (loaded.band[0], loaded.band[1])
    try:
        known = known_bands(loaded.encoder)
    except ClipAlignError:
        known = None
    if known is None or known.image is None:
        return loaded.encoder, None
    encoder, band, _ = resolve_bands(loaded.encoder, loaded.name, None, None)
    return encoder, band
