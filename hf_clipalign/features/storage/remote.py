"""Stores behind a URL: shards are read one at a time, proven, and kept nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.urls import RemoteFolder, local_path
from hf_clipalign.features.storage.folder import ShardFolder
from hf_clipalign.features.storage.headers import DamagedShard, check_place, size_problem
from hf_clipalign.features.storage.manifest import Kind, is_earlier, parsed_manifest
from hf_clipalign.features.storage.shards import Shard, check_seal, shard_in


def open_folder(place: str | Path, kind: Kind) -> ShardFolder | None:
    """What a folder holds, on a disk or behind a URL of fsspec; None if nothing of that kind.

    Raises:
        `ClipAlignError`: the manifest is damaged, of another format, or cannot be read.
    """
    path = local_path(place)
    return ShardFolder.open(path, kind) if path is not None else RemoteShards.at(RemoteFolder(str(place)), kind)


class RemoteShards(ShardFolder):
    """Shards of a run behind a URL, for reading. A shard that is read is in memory, until nothing refers to it.

    Args:
        remote (`RemoteFolder`): the folder.
        kind (`Kind`): what it holds.
        manifest (`Mapping`): its manifest.
    """

    def __init__(self, remote: RemoteFolder, kind: Kind, manifest: Mapping[str, Any]) -> None:
        super().__init__(Path(str(remote)), kind, manifest)
        self.remote = remote
        self.place: str | Path = str(remote)

    @classmethod
    def at(cls, remote: RemoteFolder, kind: Kind) -> RemoteShards | None:
        """What a folder holds, complete or not; None if nothing of that kind."""
        try:
            text = remote.read(kind.manifest_file)
        except FileNotFoundError:
            return None
        return cls(remote, kind, parsed_manifest(text, remote, kind))

    def begin(self) -> None:
        """Refused: what is written is written to a disk first."""
        raise self._read_only()

    def write(self, index: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Refused: what is written is written to a disk first."""
        raise self._read_only()

    def read(self, index: int) -> Shard:
        """A shard, in memory; it is always compared with its checksum.

        Raises:
            `ClipAlignError`: it is damaged or missing, or the place does not answer.
        """
        try:
            return self._proven(index)
        except DamagedShard as damage:
            raise self.damage(self.file(index).name, str(damage)) from None

    def problem(self, index: int) -> str | None:
        """What is wrong with a shard, None if nothing."""
        try:
            self._proven(index)
        except DamagedShard as damage:
            return str(damage)
        return None

    def check_sizes(self) -> None:
        """Compares the files' sizes with the manifest, in one listing.

        Raises:
            `ClipAlignError`: naming the first that is missing or has another size.
        """
        sizes = self.remote.names()
        for entry in self.shards:
            if problem := size_problem(sizes.get(entry["file"]), entry["bytes"]):
                raise self.damage(entry["file"], problem)

    def remove_others(self) -> None:
        """Refused: nothing behind a URL is removed by a reader."""
        raise self._read_only()

    def present(self) -> list[int]:
        """The shards that are there by their names, unread."""
        if self.complete:
            return list(range(len(self.shards)))
        return self.numbers_of(self.remote.names())

    def _proven(self, index: int) -> Shard:
        try:
            content = self.remote.read(self.file(index).name)
        except FileNotFoundError:
            raise DamagedShard("it is missing") from None
        if self.complete:
            entry = self.shards[index]
            if problem := size_problem(len(content), entry["bytes"]):
                raise DamagedShard(problem)
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise DamagedShard("its content has changed")
        shard = shard_in(content)
        if not is_earlier(self.manifest):
            check_place(shard.about, self.kind.name, self.key, index)
        if not self.complete:
            check_seal(shard)
        self.kind.check_columns(shard.tensors)
        return shard

    def _read_only(self) -> ClipAlignError:
        return ClipAlignError(
            f"{str(self.remote)!r} is only read here: write to a folder on a disk, then copy it with copy_store."
        )
