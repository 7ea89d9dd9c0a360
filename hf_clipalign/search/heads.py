"""The heads of an index, and the stored features that they turn into embeddings."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import printable
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_read
from hf_clipalign.features.storage.headers import DamagedShard, check_place, check_sealed, mapped_arrays
from hf_clipalign.search.collection.manifest import damage_of

FILE = "heads.safetensors"
KIND = "heads"
RAW, ALIGNED = "raw", "aligned"
_OPEN_SHARDS = 128
"""So many shards are mapped at a time: each takes a file descriptor."""


class Heads:
    """Projectors of an index, and its description.

    Args:
        description (`dict`): what the index is made from: model, processor, roots, band.
        matrices (`dict[str, np.ndarray]`): the model's projectors `"image"` `[d, v]` and `"text"` `[d, t]`, with a
            band also `"aligned_image"` `[k, v]` and `"aligned_text"` `[k, t]`; none if their file is damaged.
        folder (`Path`, *optional*): the index.
        damage (`Sequence[str]`, *optional*): what is wrong with their file.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        matrices: Mapping[str, NDArray[np.float32]],
        folder: Path | None = None,
        damage: Sequence[str] = (),
    ) -> None:
        self.description, self.matrices = dict(description), dict(matrices)
        self.folder, self.damage = folder, list(damage)

    @classmethod
    def of(cls, encoder: Any, description: Mapping[str, Any], band: tuple[int, int] | None) -> Heads:
        """The heads of a model."""
        matrices = {name: encoder.projector(name).matrix.detach().float().cpu().numpy() for name in ("image", "text")}
        return cls(description, matrices).with_band(band)

    def with_band(self, band: tuple[int, int] | None) -> Heads:
        """The same with another band, or without one.

        Raises:
            `ClipAlignError`: the band keeps nothing, or the file of the heads is damaged.
        """
        self._check()
        matrices = {name: self.matrices[name] for name in ("image", "text")}
        if band is not None:
            import torch

            from hf_clipalign.isoclip.spectrum import compact_projectors

            image, text = (torch.from_numpy(np.array(matrices[name])) for name in ("image", "text"))
            compact = compact_projectors(image, text, *band)
            matrices["aligned_image"], matrices["aligned_text"] = (matrix.numpy() for matrix in compact)
        return Heads({**self.description, "band": None if band is None else list(band)}, matrices, self.folder)

    @classmethod
    def load(cls, folder: Path) -> Heads:
        """Reads the heads of an index.

        Raises:
            `DamagedShard`: the file is not as it was written.
            `OSError`: it cannot be read.
        """
        about = check_sealed(folder / FILE)
        check_place(about, KIND, about["meta"].get("key", ""), 0)
        return cls(about["meta"]["description"], mapped_arrays(folder / FILE), folder)

    def save(self, folder: Path, key: str) -> None:
        """Writes them atomically."""
        import torch

        from hf_clipalign.features.storage.shards import write_shard

        tensors = {name: torch.from_numpy(np.array(matrix)) for name, matrix in self.matrices.items()}
        write_shard(folder / FILE, KIND, key, 0, tensors, {"key": key, "description": self.description})

    @property
    def names(self) -> list[str]:
        """The heads that there are."""
        return [RAW, ALIGNED] if f"{ALIGNED}_image" in self.matrices else [RAW]

    def matrix(self, head: str, modality: str) -> NDArray[np.float32]:
        """The projector of a head: `[k, w]` for stored rows, `[k, t]` for texts.

        Raises:
            `ClipAlignError`: there is no such head or modality.
        """
        self._check()
        if head == ALIGNED and head not in self.names:
            raise ClipAlignError(
                "this index has no head 'aligned': set a band with set_head(image_band=(k_top, k_bottom)) or "
                f"`clipalign index {self._name} --head K_TOP,K_BOTTOM`."
            )
        if head not in self.names:
            raise unknown_name("head", head, self.names)
        if modality not in ("image", "text"):
            raise unknown_name("modality", modality, ("image", "text"))
        matrix = self.matrices[modality if head == RAW else f"{head}_{modality}"]
        return matrix if modality == "text" or self.description["linear"] else self._beside(head, matrix)

    @property
    def _name(self) -> str:
        """The index on a command line."""
        return "IDX" if self.folder is None else shlex.quote(printable(str(self.folder)))

    def _check(self) -> None:
        if self.damage:
            raise ClipAlignError(self.damage[0])

    def _beside(self, head: str, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of a model whose head is not linear, rows also hold its embeddings: behind the features."""
        d, width = self.description["embed_dim"], self.description["width"]
        if head == RAW:
            return np.eye(d, width, width - d, dtype=np.float32)
        return np.pad(matrix, ((0, 0), (0, d)))


class IndexRows:
    """The stored features of an index, read from the mapped shards where they are asked for.

    Args:
        folder (`Path`): the index.
        files (`Sequence[str]`): file names of the shards.
        shard (`np.ndarray [N]`): for each row the position of its shard in `files`, ascending.
        place (`np.ndarray [N]`): its row there, ascending in each shard.
        width (`int`): of the stored features, w.

    Example:
        ```python
        >>> from hf_clipalign.search import ImageIndex
        >>> index = ImageIndex.open("photos.index")
        >>> index.features().read(0, 2).shape[0]
        2
        ```
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        shard: NDArray[np.int64],
        place: NDArray[np.int64],
        width: int,
    ) -> None:
        self._folder, self._files, self._shard, self._place = folder, list(files), shard, place
        self.width = width
        self._values: Callable[[int], NDArray[np.float32]] = lru_cache(_OPEN_SHARDS)(self._mapped)

    def __len__(self) -> int:
        return len(self._shard)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop`, float32.

        Raises:
            `ClipAlignError`: a shard is missing or damaged.
        """
        start, stop = max(0, start), min(stop, len(self))
        if stop <= start:
            return np.empty((0, self.width), np.float32)
        first, last = int(self._shard[start]), int(self._shard[stop - 1])
        cuts = [start, *(np.searchsorted(self._shard, np.arange(first + 1, last + 1), "left").clip(start, stop)), stop]
        parts = [self._piece(int(a), int(b)) for a, b in pairwise(cuts) if b > a]
        return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=np.float32)

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows of these positions in this order."""
        index = np.asarray(index, dtype=np.int64)
        values = np.empty((len(index), self.width), np.float32)
        shard = self._shard[index]
        for number in np.unique(shard):
            chosen = shard == number
            values[chosen] = self._values(int(number))[self._place[index[chosen]]]
        return values

    def scores(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Dot products of queries `[Q, w]` with rows `start` to `stop`, `[Q, stop - start]`."""
        return queries @ self.read(start, stop).T

    def _piece(self, start: int, stop: int) -> NDArray[np.float32]:
        """Stored features of rows of one shard; a view where no row between them is deleted."""
        values, first, last = (
            self._values(int(self._shard[start])),
            int(self._place[start]),
            int(self._place[stop - 1]),
        )
        if last - first == stop - start - 1:
            return values[first : last + 1]
        return values[self._place[start:stop]]

    def _mapped(self, number: int) -> NDArray[np.float32]:
        path = self._folder / self._files[number]
        try:
            if not path.exists():
                raise DamagedShard("it is missing")
            with explained_read(path):
                values = mapped_arrays(path)["values"]
            if values.ndim != 2 or values.shape[1] != self.width:
                raise DamagedShard("its features have another width")
            return values
        except (DamagedShard, KeyError) as damage:
            raise ClipAlignError(damage_of(path, str(damage))) from None
