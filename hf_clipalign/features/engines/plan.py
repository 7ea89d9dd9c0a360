"""The plan of an extraction: which rows of the source make which shard. Every engine walks the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file, explained_read
from hf_clipalign._io.limited_json import BadJson, checked_json, natural
from hf_clipalign.data import ImageSource, ImageStream, TextSource
from hf_clipalign.features.storage.manifest import sealed

Source = ImageSource | ImageStream | TextSource

PLAN_FILE = "plan.json"
_FORMAT = 1
_SCHEMA = {
    "format": natural,
    "key": str,
    "shard_size": natural,
    "n_items": (natural, None),
    "shards": [{"rows": [natural], "first": str, "last": str, "sha256": str}],
    "sha256": str,
}


@dataclass(frozen=True)
class Plan:
    """What the shards of one run are made of.

    The order is that of the source, so that it depends neither on the number of workers nor on what they have done.

    Args:
        key (`str`): of the run: the digest of the model, the processor, the data and the sizes, see `Kind.key`.
        shard_size (`int`): rows of the source in one shard.
        n_items (`int`, *optional*): rows of the source, None for a stream, whose end is not known before.
        shards (`tuple`): for each shard its rows, the names of the first and the last, and a digest of all names;
            empty for a stream.
    """

    key: str
    shard_size: int
    n_items: int | None
    shards: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, source: Source, key: str, shard_size: int) -> Plan:
        """The plan for a source, without looking at a single image."""
        if isinstance(source, ImageStream):
            return cls(key, shard_size, None)
        starts = range(0, len(source), shard_size)
        shards = tuple(_shard(source, range(start, min(start + shard_size, len(source)))) for start in starts)
        return cls(key, shard_size, len(source), shards)

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """The plan in a folder, None if there is none.

        Raises:
            `ClipAlignError`: it is damaged, of another version of the format, or cannot be read.
        """
        file = folder / PLAN_FILE
        with explained_read(file):
            try:
                text = file.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            found = checked_json(text, _SCHEMA)
            if sealed(found) != found:
                raise BadJson("is not as it was written")
        except BadJson as error:
            raise ClipAlignError(
                f"{str(file)!r} is damaged: it {error}. Delete it and run again: it is made anew, and shards that are "
                "done stay."
            ) from None
        if found["format"] != _FORMAT:
            raise ClipAlignError(f"{str(file)!r} has format {found['format']}, this version reads {_FORMAT}: update.")
        return cls(found["key"], found["shard_size"], found["n_items"], tuple(found["shards"]))

    def write(self, folder: Path) -> None:
        """Writes `plan.json` atomically."""
        content: Mapping[str, Any] = sealed(
            {
                "format": _FORMAT,
                "key": self.key,
                "shard_size": self.shard_size,
                "n_items": self.n_items,
                "shards": list(self.shards),
            }
        )
        with atomic_file(folder / PLAN_FILE) as staging:
            staging.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")

    def rows(self, index: int) -> range:
        """The rows of a shard; only of a plan that knows its end."""
        first, end = self.shards[index]["rows"]
        return range(first, end)

    def chosen(self, mine: Callable[[int], bool], done: frozenset[int]) -> list[int]:
        """The shards that a worker has still to make."""
        return [index for index in range(len(self.shards)) if mine(index) and index not in done]

    def difference(self, other: Plan) -> str | None:
        """The first shard that is not of the same images, in words; None if all are."""
        for index, (one, two) in enumerate(zip(self.shards, other.shards, strict=False)):
            if one != two:
                there, here = (f"{shard['first']!r} to {shard['last']!r}" for shard in (one, two))
                return f"shard {index} is {there} there, {here} here"
        if self.n_items != other.n_items:
            return f"{self.n_items} items there, {other.n_items} here"
        return None


def _shard(source: ImageSource | TextSource, rows: range) -> dict[str, Any]:
    names = names_of(source, rows)
    return {"rows": [rows.start, rows.stop], "first": names[0], "last": names[-1], "sha256": _digest(names)}


def names_of(source: ImageSource | TextSource, rows: range) -> list[str]:
    """The names of some consecutive rows; texts without names are called by their numbers."""
    return [str(row) for row in rows] if source.ids is None else list(source.ids[rows.start : rows.stop])


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()
