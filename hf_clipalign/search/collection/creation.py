"""What an index begins with: folders, the head, and the lock of its own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.quoting import printable, short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import exclusive_lock
from hf_clipalign._io.staging import remove_stale
from hf_clipalign.search.collection.models import LoadedModel
from hf_clipalign.search.heads import ALIGNED, RAW


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


def checked_roots(folder: Any) -> list[str]:
    """Absolute paths of the folders, each there and none in another."""
    given = [folder] if isinstance(folder, (str, os.PathLike)) else list(folder)
    if not given:
        raise ClipAlignError("no folder to index was given.")
    roots: list[str] = []
    for path in given:
        root = os.path.abspath(os.path.expanduser(os.fspath(path)))
        if not os.path.isdir(root):
            problem = "is a file, not a folder" if os.path.exists(root) else "no such folder"
            raise ClipAlignError(f"{printable(root)}: {problem}; pass the folder that holds the images")
        roots.append(root)
    real = [os.path.join(os.path.realpath(root), "") for root in roots]
    for i, one in enumerate(real):
        for j, other in enumerate(real):
            if i != j and one.startswith(other):
                raise ClipAlignError(f"{printable(roots[i])} lies in {printable(roots[j])}: give one of them.")
    return roots


def chosen_head(loaded: LoadedModel, head: Any) -> tuple[Any, tuple[int, int] | None]:
    """The view of the model and the band that are meant by `head`."""
    from hf_clipalign.isoclip.bands import known_bands, resolve_bands

    if isinstance(head, (tuple, list)) and len(head) == 2:
        return loaded.encoder, (check_integer("k_top", head[0], 0), check_integer("k_bottom", head[1], 0))
    if head == RAW:
        return loaded.encoder, None
    if head not in ("auto", ALIGNED):
        raise ClipAlignError(f"head is {short(head)}: give 'auto', 'raw' or a band (k_top, k_bottom).")
    try:
        known = known_bands(loaded.encoder)
    except ClipAlignError:
        known = None
    if known is None or known.image is None:
        return loaded.encoder, None
    encoder, band, _ = resolve_bands(loaded.encoder, loaded.name, None, None)
    return encoder, band
