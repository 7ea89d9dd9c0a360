"""Sidecars on the disk: each says from which state of the collection it was made, and proves that it is unchanged."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file
from hf_clipalign._io.limited_json import BadJson, checked_json, natural, number
from hf_clipalign.features.storage.headers import DamagedShard, check_place, mapped_arrays, read_header
from hf_clipalign.search.answers.collection import Collection
from hf_clipalign.search.folded import FoldedRows
from hf_clipalign.search.levels import BitLevel, ByteLevel
from hf_clipalign.search.sidecars.approximate import GraphLevel, file_facts

FOLDER = "levels"
KIND = "level"
EXACT = "exact"
"""The name of the level of lengths, with which stored features are compared exactly; see `FoldedRows`."""
SidecarLevel = FoldedRows | ByteLevel | BitLevel | GraphLevel

_FACTS = {"level": str, "head": str, "rows": natural, "recall": (number, None)}
_GRAPH_FACTS = {**_FACTS, "key": str, "bytes": natural, "crc32": natural}


class UnusableSidecar(Exception):
    """A sidecar that is missing, of another state of the collection, or damaged; the message says which."""


class Sidecar:
    """The place of one level of one head.

    Args:
        collection (`Collection`): what it is derived from.
        head (`str`): of the embeddings.
        level (`str`): `"exact"`, `"int8"`, `"bits"` or `"usearch"`.
    """

    def __init__(self, collection: Collection, head: str, level: str) -> None:
        self.collection, self.head, self.level = collection, head, level
        ending = "json" if level == GraphLevel.name else "safetensors"
        self.path = Path(collection.path) / FOLDER / f"{level}-{head}.{ending}"

    @property
    def key(self) -> str:
        """Of the state of the collection and the head."""
        matrix = _checksum({self.head: self.collection.projector(self.head, "image")})
        state = [self.collection.generation, len(self.collection.features()), self.collection.description, matrix]
        return hashlib.blake2b(json.dumps(state, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()

    def save(self, built: SidecarLevel, recall: float | None) -> None:
        """Writes a level atomically, in the place of an earlier one.

        Raises:
            `ClipAlignError`: the disk refuses.
        """
        facts = {"level": self.level, "head": self.head, "rows": len(built), "recall": recall}
        if isinstance(built, GraphLevel):
            self._save_graph(built, facts)
            return
        import torch

        from hf_clipalign.features.storage.shards import write_shard

        arrays = _arrays(built)
        facts["crc32"] = _checksum(arrays)
        facts["width"] = built.width if isinstance(built, BitLevel) else 0
        write_shard(self.path, KIND, self.key, 0, {name: torch.from_numpy(a) for name, a in arrays.items()}, facts)

    def load(self) -> tuple[SidecarLevel, float | None]:
        """The level, mapped into memory, and its recall.

        Raises:
            `UnusableSidecar`: it is missing, of another state, or damaged.
        """
        if not self.path.is_file():
            raise UnusableSidecar("missing")
        try:
            built, facts = self._graph() if self.level == GraphLevel.name else self._level()
        except (DamagedShard, BadJson, ClipAlignError, OSError, KeyError, TypeError, ValueError) as error:
            raise UnusableSidecar(f"damaged ({error})") from error
        return built, facts["recall"]

    def stamp(self) -> int:
        """Another number whenever the file was written again; 0 if there is none."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def facts(self) -> dict[str, Any]:
        """What a sidecar says about itself, without a look at its content: for a status.

        Raises:
            `UnusableSidecar`: as `load`, where the header shows it.
        """
        if not self.path.is_file():
            raise UnusableSidecar("missing")
        try:
            if self.level == GraphLevel.name:
                facts = self._graph_facts()
                return {**facts, "bytes": self._graph_path(facts).stat().st_size}
            header = read_header(self.path)
            self._check(header.about["key"])
            check_place(header.about, KIND, header.about["key"], 0)
            return {**header.about["meta"], "bytes": header.size}
        except (DamagedShard, BadJson, OSError, KeyError, TypeError) as error:
            raise UnusableSidecar(f"damaged ({error})") from error

    def remove(self) -> None:
        """Removes the files, if there are any."""
        for file in self.path.parent.glob(f"{self.level}-{self.head}*"):
            file.unlink(missing_ok=True)

    def _check(self, key: str) -> None:
        if key != self.key:
            raise UnusableSidecar("out of date")

    def _level(self) -> tuple[SidecarLevel, dict[str, Any]]:
        header = read_header(self.path)
        self._check(header.about["key"])
        check_place(header.about, KIND, header.about["key"], 0)
        facts = checked_json(json.dumps(header.about["meta"]).encode(), {**_FACTS, "crc32": natural, "width": natural})
        arrays = mapped_arrays(self.path, header)
        if _checksum(arrays) != facts["crc32"]:
            raise DamagedShard("its content has changed")
        built = _built(self.collection, self.head, self.level, arrays, facts)
        if len(built) != len(self.collection.features()):
            raise DamagedShard(f"it has {counted(len(built), 'row')}")
        return built, facts

    def _save_graph(self, graph: GraphLevel, facts: Mapping[str, Any]) -> None:
        """The graph under a name of its own, then what names it: a reader finds the old pair or the new one."""
        key = self.key
        place = self._graph_path({"key": key})
        described = {**facts, "key": key, **graph.save(place)}
        with atomic_file(self.path) as staging:
            staging.write_text(json.dumps(described), encoding="utf-8")
        for other in self.path.parent.glob(f"{self.level}-{self.head}-*.graph"):
            if other != place:
                other.unlink(missing_ok=True)

    def _graph_facts(self) -> dict[str, Any]:
        facts = checked_json(self.path.read_bytes(), _GRAPH_FACTS)
        self._check(facts["key"])
        return facts

    def _graph_path(self, facts: Mapping[str, Any]) -> Path:
        return self.path.with_name(f"{self.level}-{self.head}-{facts['key']}.graph")

    def _graph(self) -> tuple[SidecarLevel, dict[str, Any]]:
        facts = self._graph_facts()
        place = self._graph_path(facts)
        if file_facts(place) != {"bytes": facts["bytes"], "crc32": facts["crc32"]}:
            raise DamagedShard("its content has changed")
        graph = GraphLevel.load(place)
        if len(graph) != len(self.collection.features()):
            raise DamagedShard(f"it has {counted(len(graph), 'row')}")
        return graph, facts


def _arrays(built: FoldedRows | ByteLevel | BitLevel) -> dict[str, NDArray[Any]]:
    """What is stored of a level; codes as plain bytes."""
    if isinstance(built, FoldedRows):
        return {"lengths": built.lengths}
    codes = np.ascontiguousarray(built.codes).view(np.uint8)
    return {"codes": codes, "scales": built.scales} if isinstance(built, ByteLevel) else {"codes": codes}


def _built(
    collection: Collection, head: str, level: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> SidecarLevel:
    if level == EXACT:
        return FoldedRows(collection.features(), collection.projector(head, "image"), arrays["lengths"])
    if level == ByteLevel.name:
        return ByteLevel(arrays["codes"].view(np.int8), arrays["scales"])
    return BitLevel(arrays["codes"].view("<u2"), facts["width"])


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    checksum = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        checksum = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), checksum)
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8).data, checksum)
    return checksum
