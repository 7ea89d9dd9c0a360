"""What an index holds, in numbers."""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Status:
    """What an index holds.

    Attributes:
        path (`str`): where it is.
        model (`str`, *optional*): what it was made with.
        roots (`list[str]`): the indexed folders.
        missing_roots (`list[str]`): those that are not there now.
        files (`int`): files that can be found.
        images (`int`): distinct images among them.
        deleted (`int`): stored images that no file has any more.
        shards (`int`): files of features.
        bytes (`int`): their size.
        heads (`list[str]`): what can be searched with.
        band (`tuple[int, int]`, *optional*): of the aligned head.
        generation (`int`): grows with every change.
        skipped (`list[tuple[str, str]]`): path and reason of files that cannot be read.
        levels (`list[dict]`): what the index is searched with where it holds more than 2,000 images: `head`, `level`,
            `bytes`, `recall` (of the ten nearest images, None where all are compared) and `state` of each level.
        confidence (`list[dict]`): what was measured of the scores of each head; see `ImageIndex.confidence_states`.
        words (`dict`): what was measured of words: `texts` (how many unrelated ones), `of` (images in the index then),
            `state`.
        head_choice (`str`, *optional*): why the band is what it is, where it was chosen on the images themselves.
        damage (`list[str]`): files that are missing or cut off, as far as that shows without reading them, one line
            each; `ImageIndex.verify` reads all.

    Example:
        ```python
        >>> from hf_clipalign.search import ImageIndex
        >>> status = ImageIndex.open("photos.index").status()
        >>> status.images, status.heads
        (12, ['raw'])
        ```
    """

    path: str
    model: str | None
    roots: list[str]
    missing_roots: list[str]
    files: int
    images: int
    deleted: int
    shards: int
    bytes: int
    heads: list[str]
    band: tuple[int, int] | None
    generation: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    levels: list[dict[str, Any]] = field(default_factory=list)
    confidence: list[dict[str, Any]] = field(default_factory=list)
    words: dict[str, Any] = field(default_factory=dict)
    head_choice: str | None = None
    damage: list[str] = field(default_factory=list)

    @property
    def skipped_reasons(self) -> dict[str, int]:
        """How many files cannot be read for each reason, the most frequent first."""
        reasons = (reason.removeprefix(f"{path}: ") for path, reason in self.skipped)
        return dict(Counter(re.split(r" \(|[;:]", reason)[0] for reason in reasons).most_common())


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Numbers of files, images, shards, and bytes of these."""
    one = (
        "SELECT (SELECT count(*) FROM files), (SELECT count(DISTINCT image) FROM files), (SELECT count(*) FROM images)"
    )
    files, images, stored = connection.execute(one).fetchone()
    shards, size = connection.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM shards").fetchone()
    return {"files": files, "images": images, "deleted": stored - images, "shards": shards, "bytes": size}


def skipped_files(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Path and reason of each file that cannot be read."""
    query = "SELECT path, name, reason FROM skipped JOIN roots ON roots.id = skipped.root ORDER BY root, name"
    rows = connection.execute(query)
    return [(os.path.join(os.fsdecode(path), os.fsdecode(name)), reason) for path, name, reason in rows]
