"""Rows of earlier runs in a folder whose images or texts are unchanged: found by their content, used as they are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign.features.content import HASH_BYTES
from hf_clipalign.features.storage.folder import ShardFolder
from hf_clipalign.features.storage.manifest import entry, is_earlier
from hf_clipalign.features.storage.shards import open_shard

_NO_NAMES = (None, "texts", "captions", "table", "source", "stream")  # what sources without a name of their own say


@dataclass
class KnownRows:
    """Where the features of known content are.

    Args:
        places (`dict[bytes, tuple[Path, int]]`): shard and row by the hash of the image or text.
    """

    places: dict[bytes, tuple[Path, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: ShardFolder) -> KnownRows:
        """What proven shards of all runs in a folder know that would compute the same rows as `folder`'s."""
        places: dict[bytes, tuple[Path, int]] = {}
        for file, shard in folder.family_members():
            for row, hashed in enumerate(_hashes(shard.tensors.get("content"))):
                places.setdefault(hashed, (file, row))
        places.pop(bytes(HASH_BYTES), None)
        return cls(places)

    @cached_property
    def hashes(self) -> frozenset[bytes]:
        """All known content."""
        return frozenset(self.places)

    def merged(self, content: Sequence[bytes], known: Sequence[bool], fresh: Tensor) -> Tensor:
        """The features of a batch `[n, w]`: stored ones where they are known, else the next of `fresh`."""
        if not any(known):
            return fresh
        values = torch.empty(len(content), fresh.shape[1])
        mask = torch.tensor(known)
        values[~mask] = fresh
        by_file: dict[Path, list[tuple[int, int]]] = {}
        for row, (hashed, is_known) in enumerate(zip(content, known, strict=True)):
            if is_known:
                file, place = self.places[hashed]
                by_file.setdefault(file, []).append((row, place))
        for file, pairs in by_file.items():
            rows, stored = torch.tensor(pairs).T
            values[rows] = open_shard(file).tensors["values"][stored]
        return values


def may_reuse(stored: ShardFolder, wanted: Mapping[str, Any]) -> bool:
    """Whether new data are a newer state of the stored ones: of the same source, by its name."""
    old, new = entry(stored.manifest, "data.name"), entry(wanted, "data.name")
    if is_earlier(stored.manifest) or old in _NO_NAMES or new in _NO_NAMES:
        return False
    return old == new or os.path.abspath(old) == os.path.abspath(new)


def change(new: ShardFolder, n_shards: int) -> str:
    """What a new run changes about the complete store in its folder, such as "+15 −15, 185 reused"."""
    stored = ShardFolder.open(new.path, new.kind)
    before = Counter() if stored is None else Counter(_content(stored, sorted(stored.sound())))
    now = Counter(_content(new, range(n_shards)))
    reused = sum((before & now).values())
    return f"+{sum(now.values()) - reused} −{sum(before.values()) - reused}, {reused} reused"


def hashes_as_tensor(hashes: Sequence[bytes]) -> Tensor:
    """Hashes as a tensor `[n, 16]` of uint8."""
    return torch.from_numpy(np.frombuffer(b"".join(hashes), dtype=np.uint8).copy()).reshape(-1, HASH_BYTES)


def _hashes(content: Tensor | None) -> list[bytes]:
    if content is None or content.shape[1] != HASH_BYTES:
        return []
    data = content.numpy().tobytes()
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def _content(folder: ShardFolder, shards: Iterable[int]) -> list[bytes]:
    return [hashed for index in shards for hashed in _hashes(folder.read(index).tensors.get("content"))]
