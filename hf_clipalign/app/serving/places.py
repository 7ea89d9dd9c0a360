"""Which files of the disk may be shown: those of the collection, and nothing that a link leads to outside it."""

from __future__ import annotations

import os
import stat

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.files import Files


def shown_file(files: Files, number: int) -> str:
    """The real path of a file of the collection, with all links followed.

    Args:
        files (`Files`): of the collection.
        number (`int`): of the file.

    Raises:
        `ClipAlignError`: there is no such file, it has gone, it is no regular file, or it lies outside its folder.
    """
    if not 0 <= number < len(files):
        raise ClipAlignError(f"no file {number}: the collection has {len(files):,}.")
    root = os.path.realpath(files.roots[int(files.root[number])])
    real = os.path.realpath(files.path(number))
    if not is_below(real, root):
        raise ClipAlignError("this file is a link that leads out of the collection: it is not shown.")
    try:
        mode = os.lstat(real).st_mode
    except OSError:
        raise ClipAlignError("this file has gone since the index was made.") from None
    if not stat.S_ISREG(mode):
        raise ClipAlignError("this is not a regular file: it is not shown.")
    return real


def is_below(path: str, folder: str) -> bool:
    """Whether a real path lies below a real folder."""
    return path.startswith(os.path.join(folder, ""))
