"""The reading side of an index: one state of it, in whichever head it is asked for."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.collection.creation import opened_heads
from hf_clipalign.search.collection.maintenance import problems
from hf_clipalign.search.collection.manifest import Manifest, get_setting
from hf_clipalign.search.collection.shards import damaged_shards
from hf_clipalign.search.collection.snapshots import Snapshot, read_snapshot
from hf_clipalign.search.collection.status import Status, counts, skipped_files
from hf_clipalign.search.files import Files
from hf_clipalign.search.folded import ProjectedRows
from hf_clipalign.search.heads import RAW, Heads, IndexRows
from hf_clipalign.search.rows import Rows


class StoredImages:
    """What an index holds, without a model.

    Args:
        path (`Path`): the folder of the index.
        heads (`Heads`): its projectors.
    """

    def __init__(self, path: Path, heads: Heads) -> None:
        self.path = path
        self._heads = heads
        self._manifest = Manifest(path)
        self._state: Snapshot | None = None
        self._state_lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._snapshot.shard)

    @property
    def files(self) -> Files:
        """The files that can be found."""
        return self._snapshot.files

    @property
    def generation(self) -> int:
        """Grows with every change of what can be found; what is derived from the index compares it."""
        return self._snapshot.generation

    @property
    def roots(self) -> list[str]:
        """The indexed folders, absolute."""
        return list(self._heads.description["roots"])

    @property
    def description(self) -> dict[str, Any]:
        """What the index is made from: model, image processor, folders, band."""
        return self._heads.description

    @property
    def heads(self) -> list[str]:
        """`"raw"`, and `"aligned"` where a band is set."""
        return self._heads.names

    @property
    def band(self) -> tuple[int, int] | None:
        """The band of the aligned head, `(k_top, k_bottom)`."""
        band = self._heads.description.get("band")
        return None if band is None else (band[0], band[1])

    def embeddings(self, head: str = RAW, modality: str = "image") -> Rows:
        """Unit embeddings `[N, k]` of the images, computed from the mapped features block by block.

        Args:
            head (`str`, *optional*, defaults to `"raw"`): one of `heads`.
            modality (`"image"`, *optional*): of the rows: an index holds images.

        Raises:
            `ClipAlignError`: there is no such head.
        """
        if modality != "image":
            raise ClipAlignError(f"an index holds embeddings of images, not of modality {short(modality)}.")
        return ProjectedRows(self.features(), self._heads.matrix(head, "image"))

    def features(self) -> Rows:
        """The stored features before the projector, `[N, w]`, as they are."""
        state = self._snapshot
        return IndexRows(self.path, state.shard_files, state.shard, state.place, self.description["width"])

    def projector(self, head: str = RAW, modality: str = "image") -> NDArray[np.float32]:
        """The matrix `[k, w]` of a head: a query's embedding is the unit vector of `matrix @ features`.

        Raises:
            `ClipAlignError`: there is no such head or modality.
        """
        return self._heads.matrix(head, modality)

    def setting(self, name: str, default: Any = None) -> Any:
        """A value of JSON that was stored beside the index with `put_setting`."""
        return self._snapshot.settings.get(name, default)

    def status(self) -> Status:
        """What the index holds."""
        with self._manifest.reading() as connection:
            found: dict[str, Any] = dict(counts(connection))
            return Status(
                path=str(self.path),
                model=self.description["model"]["name"],
                roots=self.roots,
                missing_roots=[root for root in self.roots if not os.path.isdir(root)],
                heads=self.heads,
                band=self.band,
                generation=int(get_setting(connection, "generation", 0)),
                skipped=skipped_files(connection),
                damage=[*self._heads.damage, *damaged_shards(connection, self.path)],
                **found,
            )

    def verify(self) -> list[str]:
        """Reads the whole index and compares it with its checksums; files of the collection are not read.

        Returns:
            `list[str]`: what is wrong, one line each; empty if all is as it was written. `update(repair=True)` mends
            it.
        """
        return problems(self._manifest, self.description)

    def refresh(self) -> bool:
        """Shows the newest state of the index; whether that is another one than before."""
        with self._state_lock:
            before, self._state = self._state, None
            self._heads = opened_heads(self.path)
            return before is None or before.generation != self._snapshot.generation

    @property
    def _snapshot(self) -> Snapshot:
        with self._state_lock:  # so that no thread puts an older state in the place of a newer one
            if self._state is None:
                self._state = read_snapshot(self._manifest, self.roots)
            return self._state
