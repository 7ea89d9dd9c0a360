"""What answering a query asks of a collection, and which files share an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.search.filters import FileTable
from hf_clipalign.search.rows import Rows


class Files(FileTable, Protocol):
    """The live files of a collection; files with equal bytes share a row of the embeddings."""

    images: NDArray[np.int64]

    def find(self, path: str) -> int | None:
        """The file of an absolute path, or of a name below an indexed folder."""
        ...


class Collection(Protocol):
    """An index of images: `ImageIndex`, or a stand-in in tests."""

    @property
    def files(self) -> Files: ...

    @property
    def heads(self) -> Sequence[str]: ...

    @property
    def generation(self) -> int: ...

    def embeddings(self, head: str = "raw", modality: str = "image") -> Rows:
        """Unit embeddings of the images, `[N, k]`."""
        ...

    def projector(self, head: str, modality: str) -> NDArray[np.float32]:
        """The head's matrix, `[k, w]`."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings of texts in the space of the raw head, `[Q, d]`."""
        ...

    def encode_images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Features of images before the projector, `[Q, w]`."""
        ...

    def calibration(self, head: str) -> Any:
        """What turns scores into confidences; None where there is none."""
        ...


class FilesOfImages:
    """Which files show which image.

    Args:
        files (`Files`): the live files.
        n_images (`int`): rows of the embeddings.
    """

    def __init__(self, files: Files, n_images: int) -> None:
        self.files = files
        self.order = np.argsort(files.images, kind="stable")
        self.ends = np.searchsorted(files.images[self.order], np.arange(n_images + 1))

    def of(self, row: int, kept: NDArray[np.bool_] | None = None) -> list[int]:
        """The files of one image, in their order; those of a mask `[F]` only, if one is given."""
        found = self.order[self.ends[row] : self.ends[row + 1]].tolist()
        return found if kept is None else [i for i in found if kept[i]]
