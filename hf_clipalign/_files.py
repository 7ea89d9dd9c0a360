"""Writing so that a reader never meets a half-written result."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hf_clipalign._errors import ClipAlignError


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; when the block ends well, its files are moved to `path` one by one.

    Files already in `path` stay unless a new one has the same name. When the block fails, `path` is as before.

    Raises:
        `ClipAlignError`: `path` cannot be written to.
    """
    target = Path(path)
    with _explained(target):
        if target.exists() and not target.is_dir():
            raise ClipAlignError(f"cannot write to {str(target)!r}: a file of that name exists. Give a folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield staging
        with _explained(target):
            for file in sorted(file for file in staging.rglob("*") if file.is_file()):
                destination = target / file.relative_to(staging)
                destination.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; when the block ends well, the file is renamed to `path`.

    Raises:
        `ClipAlignError`: `path` cannot be written to.
    """
    target = Path(path)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    staging = Path(name)
    try:
        yield staging
        with _explained(target):
            os.chmod(staging, 0o666 & ~_umask())
            os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ClipAlignError(
            f"cannot write to {str(target)!r}: {error.strerror or error}. Choose a folder that you may write to."
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
