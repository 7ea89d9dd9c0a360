"""Thumbnails, made when they are asked for and kept within a limit of bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file
from hf_clipalign.data.images.thumbnails import jpeg_thumbnail

SIDES = {"small": 256, "large": 1280}
"""Longest side in pixels, by the names that a request can have."""

MAX_BYTES = 256 * 2**20

_START, _END = b"\xff\xd8", b"\xff\xd9"


class Thumbnails:
    """A cache of JPEG files; those that were not used for longest go first.

    Args:
        folder (`Path`): where they are kept; made when the first one is stored.
        max_bytes (`int`, *optional*, defaults to 256 MiB): of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._total = 0
        self._lock, self._decoders = threading.Lock(), threading.Semaphore(2)
        for name, size in _by_age(folder):
            self._note(name, size)
        self._evict()

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self._total

    def get(self, path: str, size: str = "small") -> bytes:
        """The thumbnail of an image, as a JPEG file.

        Args:
            path (`str`): the image; another size or time of the file gives another thumbnail.
            size (`str`, *optional*, defaults to `"small"`): one of `SIDES`.

        Raises:
            `ClipAlignError`: the image cannot be read.
        """
        try:
            status = os.stat(path)
        except OSError as error:
            raise ClipAlignError(f"{path!r} cannot be read: {error.strerror}.") from None
        facts = f"{os.fsencode(path)!r} {status.st_size} {status.st_mtime_ns} {SIDES[size]}"
        name = f"{hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()}.jpg"
        stored = self._stored(name)
        if stored is None:
            with self._decoders:
                stored = jpeg_thumbnail(path, SIDES[size])
            self._store(name, stored)
        return stored

    def _stored(self, name: str) -> bytes | None:
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        path = self.folder / name
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            data = b""
        if data.startswith(_START) and data.endswith(_END):
            return data
        with self._lock:
            self._total -= self._sizes.pop(name, 0)
        return None

    def _store(self, name: str, data: bytes) -> None:
        if len(data) > self.max_bytes or not self.folder.parent.is_dir():
            return
        try:
            with atomic_file(self.folder / name) as staging:
                staging.write_bytes(data)
        except ClipAlignError:  # a full disk or a read-only index: thumbnails are then made each time
            return
        with self._lock:
            self._note(name, len(data))
            self._evict()

    def _note(self, name: str, size: int) -> None:
        self._total += size - self._sizes.pop(name, 0)
        self._sizes[name] = size

    def _evict(self) -> None:
        while self._total > self.max_bytes and self._sizes:
            name, size = self._sizes.popitem(last=False)
            self._total -= size
            (self.folder / name).unlink(missing_ok=True)


def _by_age(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of the thumbnails, oldest first; another app on the same index may remove some meanwhile."""
    found = []
    for path in folder.glob("*.jpg"):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime_ns, path.name, status.st_size))
    return [(name, size) for _, name, size in sorted(found)]
