"""One update of an index: adopt what a killed run left, scan, compare, link what is known, embed what is new."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_clipalign.data.images.file_kinds import describe_other_kinds
from hf_clipalign.features.storage.headers import DamagedShard
from hf_clipalign.search.collection.changes import (
    Bookkeeper,
    Changes,
    UpdateReport,
    apply_known,
    compare,
    find_known,
    known_images,
    now,
)
from hf_clipalign.search.collection.embedding import Work, embed
from hf_clipalign.search.collection.manifest import (
    Manifest,
    get_setting,
    next_generation,
    put_setting,
    put_skipped,
    roots_of,
)
from hf_clipalign.search.collection.scanning import Scan, ignore_rule, scan, state_of
from hf_clipalign.search.collection.shards import (
    damaged_shards,
    insert_shard,
    is_shard,
    next_number,
    read_content,
    shard_number,
)

logger = logging.getLogger(__name__)

SCANNED = "scanned"
"""The setting with what the last pass over each root found, see `state_of`."""

HELD_BACK = "others"
"""The setting with the counts of what is no image that can be read here, of which the user was told."""


@dataclass
class Update:
    """What an update needs to know.

    Attributes:
        manifest (`Manifest`): the database; the folder is locked.
        key (`str`), width (`int`), shard_size (`int`): of the shards.
        roots (`list[str]`): the folders.
        ignore (`list[str]`): patterns.
        load (`Callable`): gives the checked model, when something is to be embedded.
        reader (`str`): versions of the libraries that read images.
        retry (`bool`): try skipped files again.
        batch_size (`int`), num_workers (`int`, *optional*), progress (`bool` or `Callable`): as `ImageIndex.update`.
    """

    manifest: Manifest
    key: str
    width: int
    shard_size: int
    roots: list[str]
    ignore: list[str]
    load: Callable[[], Any]
    reader: str
    retry: bool
    batch_size: int
    num_workers: int | None
    progress: bool | Callable[[int, int], None]

    def run(self) -> UpdateReport:
        """Brings the index up to date.

        Raises:
            `ClipAlignError`: the database is damaged, the disk refuses, or the model cannot be loaded or is another.
        """
        adopt_orphans(self.manifest, self.key, self.width)
        began, report = now(), UpdateReport()
        scans = self._scan(report)
        changes = Changes()
        with self.manifest.reading() as connection:
            numbers = roots_of(connection)
            for root, scanned in zip(self.roots, scans, strict=True):
                compare(connection, numbers[root], scanned, self.reader, began, self.retry, changes)
            to_embed = find_known(connection, changes, self._path_of(numbers))
        report.reused, report.skipped = changes.unchanged, changes.skipped
        report.not_looked_at = changes.not_looked_at
        book = Bookkeeper(changes, report)
        with self.manifest.writing() as connection:
            apply_known(connection, book, to_embed)
            self._note_roots(connection, scans, report)
            self._note_shards(connection, report)
        if to_embed:
            loaded = self.load()
            embed(self._work(numbers), loaded.encoder, loaded.processor, to_embed, book)
        return report

    def _scan(self, report: UpdateReport) -> list[Scan]:
        ignore, place = ignore_rule(self.ignore), os.stat(self.manifest.folder)
        with self.manifest.reading() as connection:
            states = get_setting(connection, SCANNED, {})
        scans = []
        for root in self.roots:
            scanned = scan(root, ignore, (place.st_dev, place.st_ino), states.get(root))
            scans.append(scanned)
            report.notes += scanned.reasons
            if scanned.is_missing:
                report.missing_roots.append(root)
        return scans

    def _note_roots(self, connection: sqlite3.Connection, scans: list[Scan], report: UpdateReport) -> None:
        states = dict(get_setting(connection, SCANNED, {}))
        for root, scanned in zip(self.roots, scans, strict=True):
            if not scanned.is_missing:
                states[root] = state_of(scanned)
        if states != get_setting(connection, SCANNED):
            put_setting(connection, SCANNED, states)
        others: dict[str, list[str]] = defaultdict(list)
        for scanned in scans:
            for kind, names in scanned.others.items():
                others[kind] += names
        counted = {kind: len(names) for kind, names in others.items()}
        if counted != get_setting(connection, HELD_BACK, {}):
            put_setting(connection, HELD_BACK, counted)
            if others:
                report.notes.append(f"not read: {describe_other_kinds(others)}")

    def _note_shards(self, connection: sqlite3.Connection, report: UpdateReport) -> None:
        """Names what is missing or cut off, as far as a look at the sizes shows it."""
        report.notes += damaged_shards(connection, self.manifest.folder)

    def _path_of(self, numbers: dict[str, int]) -> Callable[[int, bytes], str]:
        roots = {number: root for root, number in numbers.items()}
        return lambda root, name: os.path.join(roots[root], os.fsdecode(name))

    def _work(self, numbers: dict[str, int]) -> Work:
        return Work(
            manifest=self.manifest,
            key=self.key,
            width=self.width,
            path_of=self._path_of(numbers),
            reader=self.reader,
            shard_size=self.shard_size,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            progress=self.progress,
        )


def adopt_orphans(manifest: Manifest, key: str, width: int) -> int:
    """Records shards that were written and not recorded when a run was killed; removes those of no use.

    Returns:
        `int`: how many images were adopted.
    """
    with manifest.reading() as connection:
        recorded = {file for (file,) in connection.execute("SELECT file FROM shards")}
    names = sorted(name for name in os.listdir(manifest.folder) if is_shard(name) and name not in recorded)
    return sum(_adopt(manifest, name, key, width) for name in names)


def _adopt(manifest: Manifest, name: str, key: str, width: int) -> int:
    path, number = manifest.folder / name, shard_number(name, key)
    adopted = 0
    if number is not None:
        try:
            adopted = _record(manifest, path, number, key, width)
        except DamagedShard as damage:
            logger.warning("%s is damaged (%s): its images are embedded again", path, damage)
    if not adopted:
        path.unlink(missing_ok=True)
    return adopted


def _record(manifest: Manifest, path: Path, number: int, key: str, width: int) -> int:
    content = read_content(path.parent, number, key, width)
    with manifest.writing() as connection:
        known = known_images(connection, content.digests)
        if number < next_number(connection) or not set(content.digests) - set(known):
            return 0
        insert_shard(connection, path.parent, number, key, content.digests, content.sizes, known)
        put_skipped(connection, content.skipped)
        next_generation(connection)
    return len(content.digests) - len(known)
