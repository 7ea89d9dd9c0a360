"""One state of an index, ready to be searched."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.bands import Bands
from hf_clipalign.search.collection.manifest import Manifest, get_setting
from hf_clipalign.search.folded import FoldedRows
from hf_clipalign.search.heads import ALIGNED, RAW, Heads
from hf_clipalign.search.index import ImageIndex

State = tuple[int, int]
"""Which database, and the generation in it."""


class View:
    """One state of an index, ready to be searched; it can be shared by threads.

    Args:
        index (`ImageIndex`): of at least one image; nobody may update it through this object.
    """

    def __init__(self, index: ImageIndex) -> None:
        self.index, self.files, self.generation = index, index.files, index.generation
        self.plain = FoldedRows(index.features(), index.projector(RAW, "image"))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.plain)

    @cached_property
    def _bands(self) -> Bands:
        return Bands(self.index.features(), Heads.load(self.index.path))

    @property
    def bands(self) -> Bands:
        """The collection behind any band."""
        with self._lock:
            return self._bands

    def plain_scores(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosines `[N]` of all images with a unit vector in the space of the raw head."""
        scores = np.empty(len(self), np.float32)
        step = max(1, 2**23 // max(1, self.plain.features.width))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            scores[start:stop] = self.plain.scores(vector[None], start, stop)[0]
        return scores

    def calibration(self, head: str, band: tuple[int, int] | None = None) -> Any:
        """What turns scores of a head into confidences, where the index has it for that head and band."""
        if head == ALIGNED and band != self.index.band:
            return None
        return self.index.calibration(head)

    def files_of(self, row: int) -> list[int]:
        """The files that show the image of a row."""
        return [int(number) for number in self.files.of_image(row)]


def newest_state(path: Path) -> State:
    """The state that an index has on the disk, without reading what it holds.

    Raises:
        `ClipAlignError`: the index has gone, or cannot be read.
    """
    manifest = Manifest(path)
    try:
        inode = manifest.path.stat().st_ino
    except OSError:
        raise ClipAlignError(
            f"the index {printable(path.name)!r} has gone (moved, deleted, or on a disk that is not there): put it "
            "back, or start the app again."
        ) from None
    with manifest.reading() as connection:
        return inode, int(get_setting(connection, "generation", 0))
