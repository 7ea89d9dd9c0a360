"""THE store: a folder of shards under one manifest, written by one run, readable while the next one is made."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import exclusive_lock, explained_read
from hf_clipalign._io.staging import remove_stale
from hf_clipalign.features.storage.headers import DamagedShard, check_place, size_problem
from hf_clipalign.features.storage.manifest import FORMAT, Kind, is_earlier, plain, read_manifest, write_manifest
from hf_clipalign.features.storage.shards import (
    Shard,
    file_hash,
    open_shard,
    proven_shard,
    write_shard,
)

logger = logging.getLogger(__name__)

_KEY = 8  # characters of the key in a file name
_INDEX = "index.sqlite"


class ShardFolder:
    """Shards of one run in a folder.

    A shard's file name holds its number and the run's key, so that the shards of two runs lie side by side: a complete
    store stays readable until the manifest of the next one takes its place, in one move.

    Args:
        path (`Path`): the folder.
        kind (`Kind`): what it holds.
        manifest (`Mapping`): what the content is made from, and for a complete store its shards.

    Example:
        ```python
        >>> folder = ShardFolder.create(Path("features/"), FEATURES, description)
        >>> for index in set(range(n)) - folder.done():
        ...     folder.write(index, tensors_of(index), {})
        >>> folder.finish(n)
        >>> ShardFolder.open(Path("features/"), FEATURES).read(3).tensors["values"]
        ```
    """

    def __init__(self, path: Path, kind: Kind, manifest: Mapping[str, Any]) -> None:
        self.path, self.kind, self.manifest = path, kind, dict(manifest)
        self.place: Path | str = path  # a URL, shown without secrets, where there is no path
        self.key = kind.key(manifest)
        self._sound: set[int] = set()

    @classmethod
    def open(cls, path: Path, kind: Kind) -> ShardFolder | None:
        """What a folder holds, complete or not; None if nothing of that kind.

        Raises:
            `ClipAlignError`: the manifest is damaged, of another format, or cannot be read.
        """
        manifest = read_manifest(path, kind)
        return None if manifest is None else cls(path, kind, manifest)

    @classmethod
    def describe(cls, path: Path, kind: Kind, description: Mapping[str, Any]) -> ShardFolder:
        """A run that is to fill a folder; nothing is written yet."""
        return cls(path, kind, plain({"format": FORMAT, "complete": False, **description}))

    @classmethod
    def create(cls, path: Path, kind: Kind, description: Mapping[str, Any]) -> ShardFolder:
        """Begins a run: its manifest says that it is not complete."""
        folder = cls.describe(path, kind, description)
        folder.begin()
        return folder

    def with_key(self, key: str) -> ShardFolder:
        """The shards of an unfinished run in the folder that is known by its key alone."""
        other = ShardFolder(self.path, self.kind, {**self.manifest, "complete": False, "shards": []})
        other.key = key
        return other

    def begin(self) -> None:
        """Writes the manifest of a run that is not complete."""
        write_manifest(self.path, self.kind, self.manifest)

    @property
    def complete(self) -> bool:
        """Whether `finish` was called."""
        return self.manifest.get("complete", False)

    @property
    def shards(self) -> list[dict[str, Any]]:
        """What the manifest of a complete store says about each shard."""
        return self.manifest.get("shards", [])

    def file(self, index: int) -> Path:
        """Where a shard is."""
        if self.complete:
            return self.path / self.shards[index]["file"]
        return self.path / f"{self.kind.name}-{index:05d}-{self.key[:_KEY]}.safetensors"

    def done(self, mine: Callable[[int], bool] = lambda _: True) -> frozenset[int]:
        """The shards of this run that are there and proven; damaged ones are named in a warning.

        Args:
            mine (`Callable[[int], bool]`): which ones to look at. Default: all.

        Raises:
            `ClipAlignError`: the disk refuses to read one of them.
        """
        return frozenset(index for index in self.present() if mine(index) and self._problem_told(index) is None)

    def sound(self) -> frozenset[int]:
        """As `done`, without a warning."""
        return frozenset(index for index in self.present() if self.problem(index) is None)

    def write(self, index: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Writes a shard atomically.

        Raises:
            `ClipAlignError`: the disk refuses.
        """
        about = {**(meta or {}), "family": self.kind.family(self.manifest)}
        write_shard(self.file(index), self.kind.name, self.key, index, tensors, about)
        self._sound.add(index)

    def read(self, index: int) -> Shard:
        """A shard, mapped into memory. It is compared with its checksum when it is read for the first time.

        Raises:
            `ClipAlignError`: it is damaged, or the disk refuses to read it.
        """
        file = self.file(index)
        with explained_read(file):
            try:
                if index not in self._sound:
                    self._check(index)
                    self._sound.add(index)
                shard = open_shard(file)
                self.kind.check_columns(shard.tensors)
                return shard
            except FileNotFoundError:
                problem = self._missing(file)
            except DamagedShard as damage:
                problem = str(damage)
        raise self.damage(file.name, problem)

    def verify(self) -> None:
        """Compares every shard with its checksum.

        Raises:
            `ClipAlignError`: naming the first damaged shard, or the disk refuses to read.
        """
        for index in range(len(self.shards)):
            self._sound.discard(index)
            self.read(index)

    def damaged(self, mine: Callable[[int], bool] = lambda _: True) -> list[str]:
        """File names of the shards of a complete store that are missing, or not as they were written.

        Args:
            mine (`Callable[[int], bool]`): which ones to look at. Default: all.

        Raises:
            `ClipAlignError`: the disk refuses to read.
        """
        looked_at = filter(mine, range(len(self.shards)))
        return [self.shards[index]["file"] for index in looked_at if self.problem(index) is not None]

    def check_sizes(self) -> None:
        """Compares the files' sizes with the manifest, without reading them.

        Raises:
            `ClipAlignError`: naming the first that is missing or has another size.
        """
        for entry in self.shards:
            file = self.path / entry["file"]
            with explained_read(file):
                try:
                    size = os.stat(file).st_size
                except FileNotFoundError:
                    raise self.damage(file.name, self._missing(file)) from None
            if problem := size_problem(size, entry["bytes"]):
                raise self.damage(file.name, problem)

    def finish(self, n_shards: int, counts: Sequence[Mapping[str, int]] | None = None, **more: Any) -> ShardFolder:
        """Writes the manifest that makes the store complete, and removes what it no longer names.

        Args:
            n_shards (`int`): how many there are.
            counts (`Sequence[Mapping[str, int]]`, *optional*): what the manifest says about each shard beside its
                name, size and checksum.
            **more: further entries of the manifest.
        """
        shards = []
        for index in range(n_shards):
            file = self.file(index)
            self.read(index)
            with explained_read(file):
                sizes = {"bytes": os.stat(file).st_size, "sha256": file_hash(file)}
            shards.append({"file": file.name, **(counts[index] if counts else {}), **sizes})
        finished = ShardFolder(self.path, self.kind, {**self.manifest, "complete": True, **more, "shards": shards})
        write_manifest(self.path, self.kind, finished.manifest)
        finished.remove_others()
        return finished

    def family_members(self) -> Iterator[tuple[Path, Shard]]:
        """Proven shards of any run in the folder whose rows are made as this run makes them.

        Raises:
            `ClipAlignError`: the disk refuses to read one of them.
        """
        family = self.kind.family(self.manifest)
        for file in shard_files(self.path, self.kind):
            with explained_read(file):
                try:
                    shard = open_shard(file)
                    if shard.meta.get("family") != family:
                        continue
                    shard = proven_shard(file, self.kind.name, shard.about["key"], shard.about["shard"])
                    self.kind.check_columns(shard.tensors)
                except DamagedShard as damage:
                    logger.warning("%s is damaged, and its rows are made again: %s", file, damage)
                    continue
            yield file, shard

    def remove_others(self) -> None:
        """Removes shards that a complete store does not name: what earlier runs left."""
        named = {entry["file"] for entry in self.shards}
        for file in shard_files(self.path, self.kind):
            if file.name not in named:
                file.unlink(missing_ok=True)

    def damage(self, file: str, problem: str) -> ClipAlignError:
        """The error that names a damaged file."""
        return ClipAlignError(
            f"the {self.kind.noun} in {str(self.place)!r} are damaged: {file}: {problem}. {self.kind.remedy}."
        )

    def present(self) -> list[int]:
        """The shards that are there by their names, unread."""
        if self.complete:
            return list(range(len(self.shards)))
        return self.numbers_of(file.name for file in shard_files(self.path, self.kind))

    def numbers_of(self, names: Iterable[str]) -> list[int]:
        """Which shards of this run the names of files are of."""
        pattern = re.compile(rf"{self.kind.name}-(\d{{5,}})-{self.key[:_KEY]}\.safetensors")
        return sorted(int(match[1]) for match in map(pattern.fullmatch, names) if match)

    def _problem_told(self, index: int) -> str | None:
        if problem := self.problem(index):
            logger.warning("%s is made again: %s", self.file(index), problem)
        return problem

    def problem(self, index: int) -> str | None:
        """What is wrong with a shard, None if nothing; only what is proven.

        Raises:
            `ClipAlignError`: the disk refuses to read it.
        """
        file = self.file(index)
        with explained_read(file):
            try:
                self._check(index)
            except DamagedShard as damage:
                return str(damage)
            except FileNotFoundError:
                return self._missing(file)
        self._sound.add(index)
        return None

    def _check(self, index: int) -> None:
        file = self.file(index)
        if not self.complete:
            self.kind.check_columns(proven_shard(file, self.kind.name, self.key, index).tensors)
            return
        entry = self.shards[index]
        if problem := size_problem(os.stat(file).st_size, entry["bytes"]):
            raise DamagedShard(problem)
        shard = open_shard(file)
        if not is_earlier(self.manifest):
            check_place(shard.about, self.kind.name, self.key, index)
        if file_hash(file) != entry["sha256"]:
            raise DamagedShard("its content has changed")

    def _missing(self, file: Path) -> str:
        """Says that a file is missing, if its folder is there and does not list it; else the disk is to blame."""
        names = os.listdir(self.path)
        if file.name in names or self.kind.manifest_file not in names:
            raise
        now = ShardFolder.open(self.path, self.kind)
        replaced = self.complete and now is not None and now.key != self.key
        return "another run has replaced it since it was opened" if replaced else "it is missing"


def shard_files(path: Path, kind: Kind) -> list[Path]:
    """The shards of all runs in a folder."""
    pattern = re.compile(rf"{kind.name}-\d{{5,}}(-[0-9a-f]{{{_KEY}}})?\.safetensors")
    with explained_read(path):
        return sorted(path / name for name in os.listdir(path) if pattern.fullmatch(name))


def remove_store(path: Path, kind: Kind) -> None:
    """Removes manifest and shards. Only while the folder is held."""
    (path / kind.manifest_file).unlink(missing_ok=True)
    for file in shard_files(path, kind):
        file.unlink(missing_ok=True)


@contextmanager
def folder_lock(path: Path, kind: Kind, suffix: str = "", patience: float = 0.0) -> Iterator[None]:
    """Holds a folder for writing, until the block or the process ends; what killed runs left half-written is removed.

    Args:
        path, kind: the folder.
        suffix (`str`, *optional*, defaults to `""`): names one of several locks.
        patience (`float`, *optional*, defaults to `0`): seconds to wait for it.

    Raises:
        `ClipAlignError`: another process is writing there, the folder cannot be written to, or it is that of an index,
            whose shards have such names.
    """
    if (path / _INDEX).exists():
        raise ClipAlignError(f"{str(path)!r} holds an index: use another folder for {kind.noun}.")
    message = f"another run is writing {kind.noun} to {str(path)!r}: wait for it, or use another folder."
    with exclusive_lock(path / f".{kind.name}{suffix}.lock", message, patience):
        remove_stale(path)
        yield
