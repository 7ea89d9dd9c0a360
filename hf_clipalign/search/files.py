"""The files of an index: what may be found, where it is, how large and how old."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import readable_name


@dataclass(frozen=True)
class Files:
    """Files that can be found, by root and name; files with equal bytes share an image.

    Args:
        roots (`list[str]`): the indexed folders, absolute.
        root (`np.ndarray [F]`): for each file the position of its folder in `roots`.
        names (`list[str]`): F names below the root, with slashes; bytes that are no UTF-8 are written as `\\xe9`.
        sizes (`np.ndarray [F]`): int64, bytes.
        modified (`np.ndarray [F]`): float64, seconds since the epoch.
        images (`np.ndarray [F]`): int64, row of the embeddings.
        raw (`Sequence[bytes]`, *optional*): the names as the file system has them. Default: `names` in UTF-8.

    Example:
        ```python
        >>> from hf_clipalign.search import Files
        >>> files = Files(["/photos"], np.zeros(1, int), ["cat/1.png"], np.ones(1), np.zeros(1), np.zeros(1, int))
        >>> files.path(0), files.find("cat/1.png"), files.classes
        ('/photos/cat/1.png', 0, ['cat'])
        ```
    """

    roots: list[str]
    root: NDArray[np.int64]
    names: list[str]
    sizes: NDArray[np.int64]
    modified: NDArray[np.float64]
    images: NDArray[np.int64]
    raw: Sequence[bytes] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def classes(self) -> list[str]:
        """The first folder of each name; empty for files that lie in the root itself."""
        return [name.partition("/")[0] if "/" in name else "" for name in self.names]

    def path(self, i: int) -> str:
        """The absolute path of a file on the disk."""
        return os.path.join(self.roots[int(self.root[i])], os.fsdecode(self._raw[int(i)]))

    def find(self, path: str | os.PathLike[str]) -> int | None:
        """The number of a file, by its absolute path, or by its name below a root.

        Args:
            path (`str` or `os.PathLike`): of two roots that have such a name the first counts.
        """
        path = os.fspath(path)
        found = self._places.get(os.fsencode(path))
        if found is not None or not self.roots:
            return found[0] if found else None
        for number, root in enumerate(self.roots):
            for candidate in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
                if candidate.startswith(os.path.join(root, "")):
                    name = os.fsencode(os.path.relpath(candidate, root)).replace(os.sep.encode(), b"/")
                    for place in self._places.get(name, []):
                        if self.root[place] == number:
                            return place
        return self._readable_places.get(path)

    def of_image(self, row: int) -> NDArray[np.int64]:
        """The files that are one image, by its row of the embeddings."""
        left, right = np.searchsorted(self._sorted_images, [row, row + 1])
        return np.sort(self._by_image[left:right])

    @cached_property
    def _raw(self) -> Sequence[bytes]:
        return [os.fsencode(name) for name in self.names] if self.raw is None else self.raw

    @cached_property
    def _by_image(self) -> NDArray[np.int64]:
        return np.argsort(self.images, kind="stable")

    @cached_property
    def _sorted_images(self) -> NDArray[np.int64]:
        return self.images[self._by_image]

    @cached_property
    def _places(self) -> dict[bytes, list[int]]:
        places: dict[bytes, list[int]] = {}
        for place, name in enumerate(self._raw):
            places.setdefault(name, []).append(place)
        return places

    @cached_property
    def _readable_places(self) -> dict[str, int]:
        places: dict[str, int] = {}
        for place, name in enumerate(self.names):
            places.setdefault(name, place)
        return places


def decoded_name(name: bytes) -> str:
    """A file name as valid text, see `Files`."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return readable_name(os.fsdecode(name))
