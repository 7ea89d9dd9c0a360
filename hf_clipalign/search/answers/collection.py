"""What answering a query asks of a collection, and which files share an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.search.answers.filters import FileTable
from hf_clipalign.search.rows import Rows


class Files(FileTable, Protocol):
    """The live files of a collection; files with equal bytes share a row of the embeddings."""

    @property
    def images(self) -> NDArray[np.int64]: ...

    def find(self, path: str) -> int | None:
        """The file of an absolute path, or of a name below an indexed folder."""
        ...

    def of_image(self, row: int) -> NDArray[np.int64]:
        """The files that show the image of a row."""
        ...


class Collection(Protocol):
    """An index of images: `ImageIndex`, or a stand-in in tests."""

    @property
    def path(self) -> Path: ...

    @property
    def description(self) -> Mapping[str, Any]: ...

    @property
    def files(self) -> Files: ...

    @property
    def heads(self) -> Sequence[str]: ...

    @property
    def generation(self) -> int: ...

    def embeddings(self, head: str = "raw", modality: str = "image") -> Rows:
        """Unit embeddings of the images, `[N, k]`."""
        ...

    def features(self) -> Rows:
        """The stored features before the projector, `[N, w]`."""
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
